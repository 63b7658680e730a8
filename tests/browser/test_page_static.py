"""The page's files by themselves: what they reference, what they hold, and that they parse."""

from __future__ import annotations

import re
import shutil
import subprocess
import wave
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

WEB = Path(__file__).parents[2] / "serve_app" / "gateway" / "web"
MODULES = sorted(WEB.glob("*.js"))
VOID = {"meta", "link", "img", "input", "path", "rect", "circle", "use"}


class Page(HTMLParser):
    """Collects the elements of index.html with their attributes and their text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.text.append("")
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.text.append("")

    def handle_endtag(self, tag: str) -> None:
        opened = self.elements[self._open.pop()][0]
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.text[index] += data

    def all(self, *tags: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attrs, " ".join(self.text[i].split()))
            for i, (tag, attrs) in enumerate(self.elements)
            if tag in tags
        ]


@pytest.fixture(scope="module")
def page() -> Page:
    parsed = Page()
    parsed.feed((WEB / "index.html").read_text(encoding="utf-8"))
    assert not parsed._open, "every element is closed"
    return parsed


def ids(page: Page) -> set[str]:
    return {attrs["id"] for _, attrs in page.elements if "id" in attrs}


def code(path: Path) -> str:
    """Return a script or style sheet without its comments."""
    return re.sub(
        r"/\*.*?\*/|^\s*//[^\n]*$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def test_every_asset_of_the_page_exists(page: Page) -> None:
    references = [attrs["src"] for attrs, _ in page.all("script", "img", "video") if "src" in attrs]
    references += [attrs["href"] for attrs, _ in page.all("link")]
    assert "web/app.js" in references
    assert "web/style.css" in references
    for reference in references:
        assert reference.startswith("web/"), f"{reference}: expected a relative address below web/"
        assert (WEB / reference.removeprefix("web/")).is_file(), reference


def test_every_icon_that_is_used_is_in_the_sprite(page: Page) -> None:
    symbols = {attrs["id"] for attrs, _ in page.all("symbol")}
    used = {attrs["href"].removeprefix("#") for attrs, _ in page.all("use")}
    scripts = "".join(code(module) for module in MODULES)
    used |= set(re.findall(r'"#?(icon-[a-z]+)"', scripts))
    assert used == symbols


def test_nothing_is_asked_from_another_host() -> None:
    for path in sorted(WEB.iterdir()):
        if path.suffix not in {".html", ".css", ".js", ".svg"}:
            continue
        text = code(path) if path.suffix in {".css", ".js"} else path.read_text(encoding="utf-8")
        addresses = re.findall(r"(?:https?:|wss?:)?//[a-z0-9][^\s\"'`)]*", text, flags=re.IGNORECASE)
        foreign = [address for address in addresses if "www.w3.org/2000/svg" not in address]
        assert not foreign, f"{path.name}: {foreign}"
        assert "stun:" not in text, f"{path.name}: ICE servers come from the server's configuration"


def test_a_strict_content_security_policy_holds(page: Page) -> None:
    for attrs, text in page.all("script"):
        assert attrs.get("type") == "module"
        assert attrs.get("src"), "scripts are files"
        assert not text
    assert not page.all("style"), "style sheets are files"
    for tag, attrs in page.elements:
        inline = [name for name in attrs if name == "style" or name.startswith("on")]
        assert not inline, f"<{tag}> has inline {inline}"
    for module in MODULES:
        unsafe = re.findall(
            r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", code(module)
        )
        assert not unsafe, f"{module.name}: {unsafe}"


def test_everything_that_can_be_pressed_or_filled_has_a_name(page: Page) -> None:
    labels = " ".join(attrs.get("for", "") for attrs, _ in page.all("label"))
    label_texts = [text for _, text in page.all("label")]
    for attrs, text in page.all("button"):
        assert text or attrs.get("aria-label"), f"button #{attrs.get('id')} has no name"
        assert attrs.get("type") == "button"
    for attrs, _ in page.all("input"):
        assert attrs.get("aria-label") or attrs.get("id", "-") in labels
    assert all(label_texts), "labels hold text"
    assert page.all("select")
    assert all("alt" in attrs for attrs, _ in page.all("img"))
    assert all(attrs.get("aria-label") for attrs, _ in page.all("video"))


def test_the_page_tells_screen_readers_what_it_is(page: Page) -> None:
    (html, _), *_ = page.all("html")
    assert html["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    known = ids(page)
    for tag, attrs in page.elements:
        for label in attrs.get("aria-labelledby", "").split():
            assert label in known, f"<{tag}> is labelled by #{label}, which is not there"
    log = next(attrs for _, attrs in page.elements if attrs.get("role") == "log")
    assert log["aria-live"] == "polite"


def test_ids_are_unique_and_those_the_scripts_ask_for_exist(page: Page) -> None:
    listed = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(listed) == len(set(listed))
    scripts = "".join(code(module) for module in MODULES)
    asked = set(re.findall(r'\belement\("([a-z-]+)"', scripts))
    asked |= set(re.findall(r'\bshow(?:Text|Tile|Light)\("([a-z-]+)"', scripts))
    assert len(asked) > 15
    assert asked <= set(listed), asked - set(listed)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_imports_name_what_the_other_modules_export(module: Path) -> None:
    for names, source in re.findall(
        r'import \{([^}]*)\} from "\./([^"]+)"', module.read_text(encoding="utf-8")
    ):
        exported = (WEB / source).read_text(encoding="utf-8")
        for name in filter(None, (name.strip() for name in names.split(","))):
            assert re.search(rf"export (?:async )?(?:function|class|const) {name}\b", exported), (
                f"{name} in {source}"
            )


def test_every_module_is_reached_from_the_app() -> None:
    reached, waiting = set(), ["app.js"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += re.findall(r'"\./([a-z-]+\.js)"', code(WEB / name))
    assert reached == {module.name for module in MODULES}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_module_parses(module: Path) -> None:
    checked = subprocess.run(
        ["node", "--input-type=module", "--check"],
        input=module.read_bytes(),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert checked.returncode == 0, checked.stderr.decode()


def run_in_node(script: str) -> str:
    """Run a module script beside the page's modules and return what it prints."""
    done = subprocess.run(
        ["node", "--input-type=module"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"NODE_NO_WARNINGS": "1", "PATH": str(Path(shutil.which("node") or "node").parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_speech_becomes_a_wav_that_python_reads(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    run_in_node(
        f"""
        import {{ writeFileSync }} from "node:fs";
        import {{ padTo, toInt16, toWav }} from "{_data_url(WEB / "speech-pcm.js")}";
        writeFileSync({str(path)!r}, toWav(padTo(toInt16(new Float32Array([0, 0.5, -1, 2])), 1)));
        """
    )
    with wave.open(str(path)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
        assert sound.getnframes() == 16_000
        first = memoryview(sound.readframes(4)).cast("h").tolist()
    assert first == [0, 16384, -32767, 32767]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_missing_path_is_explained_with_turn_https_and_the_firewall() -> None:
    printed = run_in_node(
        f"""
        import {{ diagnose }} from "{_data_url(WEB / "diagnosis.js")}";
        const found = diagnose({{ reason: "no-path", hasTurn: false, hasLocalCandidates: true,
          hasRemoteCandidates: true, isLocalhost: false, isSecure: false }});
        console.log(found.title, "|", found.why, "|", found.remedies.join(" "));
        """
    )
    assert "No network path" in printed
    for word in ("UDP", "firewall", "TURN", "HTTPS"):
        assert word in printed


def test_sample_is_a_short_16_khz_mono_sentence_that_begins_at_once() -> None:
    path = WEB / "sample.wav"
    assert path.stat().st_size < 200_000
    with wave.open(str(path)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
        assert 4 <= sound.getnframes() / 16_000 <= 6
        start = memoryview(sound.readframes(1600)).cast("h").tolist()
    assert max(abs(sample) for sample in start) > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_of_at_least_aa(scheme: str) -> None:
    style = (WEB / "style.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in _root_blocks(style))
    colours = light if scheme == "light" else light | dark
    pairs = [
        ("ink", "ground"), ("ink", "surface"), ("ink", "sunken"), ("ink", "bad-ground"),
        ("ink-soft", "surface"), ("ink-soft", "sunken"), ("bad", "surface"), ("bad", "bad-ground"),
        ("accent", "surface"), ("on-accent", "accent"), ("on-accent", "accent-strong"),
    ]  # fmt: skip
    for text, ground in pairs:
        contrast = _contrast(colours[text], colours[ground])
        assert contrast >= 4.5, f"{scheme}: {text} on {ground} has {contrast:.2f}"


def test_motion_can_be_reduced_and_focus_is_seen() -> None:
    style = (WEB / "style.css").read_text(encoding="utf-8")
    assert "@media (prefers-reduced-motion: reduce)" in style
    assert ":focus-visible" in style
    assert "outline: none" not in style


def _root_blocks(style: str) -> tuple[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    assert len(blocks) == 2
    return blocks[0], blocks[1]


def _contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, 1.4.3)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _data_url(module: Path) -> str:
    """Return a module as an address that Node takes for a module whatever the file's name."""
    return "data:text/javascript," + "".join(f"%{byte:02x}" for byte in module.read_bytes())
