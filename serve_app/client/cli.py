"""The command line: `avatar create`, `remove`, `tools`, `models`, `render`, `speak`, `doctor` and `key`.

Commands import what they need when they run, so that `avatar --help` is quick.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_app.client.models import models
from serve_app.errors import AvatarError

if TYPE_CHECKING:
    from serve_app.client.a2v import A2vClient, DoorEvent
    from serve_app.client.received import Received

VOICED = 500
"""Loudness above which sound counts as voiced; Opus's noise in silence stays below 100."""

DEFAULT_URL = "ws://localhost:8765/webrtc"


class Commands(click.Group):
    """A group whose commands end with one sentence when the application raised one of its errors."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command; an AvatarError becomes its message and exit code 1."""
        try:
            return super().invoke(ctx)
        except AvatarError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands)
@click.version_option(package_name="serve-app", prog_name="avatar")
def main() -> None:
    """Talking avatars in real time: speech in, a face that speaks it out."""


main.add_command(models)

STORE = click.option(
    "--store",
    default="~/.serve-app/avatars",
    show_default=True,
    envvar="AVATAR_STORE",
    help="folder or fsspec URL of the avatars",
)

SPEECH = click.argument("speech", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@main.command()
@SPEECH
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="MP4 file"
)
@click.option("--model", default="portrait", show_default=True, help="network that animates")
@click.option("--avatar", default="default", show_default=True, help="whose face")
@click.option("--fps", default=30, show_default=True, type=click.IntRange(10, 60))
@STORE
def render(speech: Path, output: Path, model: str, avatar: str, fps: int, store: str) -> None:
    """Render SPEECH (a WAV file) to an MP4 on this machine, without a server."""
    from tqdm import tqdm

    from serve_app.client.render import render_file

    with tqdm(desc=output.name, unit="frame", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        render_file(speech, output, model=model, avatar_id=avatar, fps=fps, store=store, progress=progress)
    click.echo(f"wrote {output}")


@main.command()
@SPEECH
@click.option("--url", default=DEFAULT_URL, show_default=True, help="the server's Audio-to-Video door")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="write what came back, MP4"
)
@click.option("--token", envvar="AVATAR_TOKEN", help="access token (or AVATAR_TOKEN)")
@click.option("--live", is_flag=True, help="send at the pace of speech, as a microphone does")
@click.option("--timeout", default=15.0, show_default=True, help="longest wait for each step, in seconds")
def speak(speech: Path, url: str, output: Path | None, token: str | None, live: bool, timeout: float) -> None:
    """Speak SPEECH through a running server, over WebRTC."""
    asyncio.run(_speak(speech, url, output, token=token, live=live, timeout_s=timeout))


async def _speak(
    speech: Path, url: str, output: Path | None, *, token: str | None, live: bool, timeout_s: float
) -> None:
    from serve_app.client.a2v import A2vClient
    from serve_app.client.received import Mp4Writer, Receiver
    from serve_app.client.speech_file import read_speech

    samples, hz = read_speech(speech)
    writer = None if output is None else Mp4Writer(output)
    watch = Watch()

    def take(received: Received) -> None:
        watch.see(received)
        if writer is not None:
            writer.write(received)

    receiver = Receiver(on_video=take, on_sound=take)
    lag_s = 0.0
    try:
        async with A2vClient(url, token=token, media=receiver, timeout_s=timeout_s) as client:
            _say_connected(client)
            with client.inbox() as inbox:
                longest_s = 2 * len(samples) / hz + timeout_s
                completed = asyncio.ensure_future(asyncio.wait_for(_until_completed(inbox, watch), longest_s))
                try:
                    spoken = await (client.stream(samples, hz) if live else client.speak_wav(speech))
                    watch.sent_s = spoken.sent_s[0]
                    await completed
                finally:
                    completed.cancel()
            lag_s = receiver.sound_lag_s()
    except asyncio.TimeoutError:  # noqa: UP041 - another class before Python 3.11
        raise click.ClickException("the speech was sent, but generation.completed did not come") from None
    finally:
        if writer is not None and watch.pictures:
            await asyncio.to_thread(writer.finish, lag_s)
    watch.report()
    if output is not None:
        click.echo(f"wrote {output}")


def _say_connected(client: A2vClient) -> None:
    moments = client.moments
    assert moments.opening_s is not None
    assert moments.media_s is not None
    click.echo(
        f"connected: session {client.session_id}, first picture after "
        f"{(moments.media_s - moments.opening_s) * 1000:.0f} ms"
    )


async def _until_completed(inbox: asyncio.Queue[DoorEvent | None], watch: Watch) -> None:
    while (event := await inbox.get()) is not None:
        if event.type == "error":
            raise event.as_error()
        if not event.type.startswith("generation."):
            continue
        watch.note(event)
        path = event.message.get("video_path")
        index = event.message.get("chunk_index")
        click.echo(f"{event.type} (utterance {index})" + (f": recorded as {path}" if path else ""))
        if event.type == "generation.completed":
            return
    raise click.ClickException("the session ended before the speech was spoken")


class Watch:
    """Times what comes back.

    Attributes:
        sent_s: when the speech's first message left.
        pictures: decoded so far.
    """

    def __init__(self) -> None:
        self.sent_s: float | None = None
        self.pictures = 0
        self._started_s: float | None = None
        self._speaking_s: float | None = None
        self._voiced_s: float | None = None

    def note(self, event: DoorEvent) -> None:
        """Take an event: generation.started says that the first speaking frame is on show."""
        if event.type == "generation.started":
            self._started_s = event.received_s

    def see(self, received: Received) -> None:
        """Take a decoded picture or sound."""
        if received.kind == "video":
            self.pictures += 1
            if self._speaking_s is None and self._started_s is not None:
                self._speaking_s = received.decoded_s
        elif self._voiced_s is None and abs(received.samples().astype(int)).max() > VOICED:
            self._voiced_s = received.decoded_s

    def report(self) -> None:
        """Print the latencies."""
        if self.sent_s is None:
            return
        for name, when_s in (
            ("first voiced sound", self._voiced_s),
            ("first speaking frame", self._speaking_s),
        ):
            if when_s is not None:
                click.echo(f"speech sent → {name}: {(when_s - self.sent_s) * 1000:.0f} ms")


@main.command()
@click.argument("photo")
@click.option("--name", required=True, help="for people")
@click.option("--id", "avatar_id", help="what sessions call it; made of the name by default")
@click.option("--source", default="", help="where the photo comes from, and under which terms")
@click.option("--background", default="photo", show_default=True, help="photo, green, #rrggbb or a picture")
@STORE
@click.option("--preview", type=click.Path(dir_okay=False, path_type=Path), help="write its picture, PNG")
def create(
    photo: str,
    name: str,
    avatar_id: str | None,
    source: str,
    background: str,
    store: str,
    preview: Path | None,
) -> None:
    """Make an avatar of PHOTO (a file or an https URL) with one face, in a few seconds.

    PHOTO may be a short video of somebody who sits still and is silent: then the avatar idles as they do.
    """
    from tqdm import tqdm

    from serve_app.avatars.bundle import PORTRAIT
    from serve_app.avatars.photo import PhotoRefused
    from serve_app.avatars.prepare import STEPS
    from serve_app.client.create import create as create_avatar

    is_url = photo.startswith(("https://", "http://"))
    with tqdm(
        total=len(STEPS) + 1, unit="step", disable=None, bar_format="{desc:<24}|{bar}| {elapsed}"
    ) as bar:

        def progress(number: int, text: str) -> None:
            bar.set_description_str(text)
            bar.update(number - bar.n)

        try:
            created = create_avatar(
                photo if is_url else Path(photo),
                name=name,
                store=store,
                avatar_id=avatar_id,
                source=source,
                background=background,
                progress=progress,
            )
        except PhotoRefused as error:
            raise click.ClickException(f"{error.detail}. {error.suggestion}") from error
        bar.update(len(STEPS) + 1 - bar.n)
    for note in created.notes:
        click.echo(f"note: {note}")
    if preview is not None:
        preview.write_bytes(created.files[PORTRAIT])
    click.echo(f"created {created.bundle.avatar_id}")


@main.command()
@click.argument("avatar_id", metavar="NAME")
@STORE
def remove(avatar_id: str, store: str) -> None:
    """Remove the avatar NAME (its id) from the store.

    Servers that have it loaded show it until they restart.
    """
    from serve_app.client.create import remove as remove_avatar

    remove_avatar(avatar_id, store)
    click.echo(f"removed {avatar_id}")


@main.command()
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="where to")
def tools(folder: Path | None) -> None:
    """Install what finds faces in photos, into an environment of its own (430 MB)."""
    from serve_app.avatars.landmarks import install_tools

    click.echo(f"installed in {install_tools(folder, click.echo)}")


@main.command()
@click.argument("name")
def key(name: str) -> None:
    """Make an API key for the client NAME.

    The key is shown once, on the terminal. The output is its configuration, which holds only its hash.
    """
    import hashlib
    import re
    import secrets

    from serve_app.config import API_KEY_ID

    if not re.fullmatch(API_KEY_ID, name):
        raise click.UsageError("NAME: expected 1 to 64 of A-Z a-z 0-9 . _ -, the first no sign")
    plain = f"ak_{secrets.token_urlsafe(32)}"
    sha256 = hashlib.sha256(plain.encode()).hexdigest()
    # Not where the output goes: that may be the end of a file.
    click.echo(f"The key, for the client alone. It is not shown again:\n\n  {plain}\n", err=True)
    click.echo(f"An entry of auth.keys (or give AVATAR_API_KEYS={name}:<key>):\n", err=True)
    click.echo(f'- id: "{name}"\n  sha256: "{sha256}"')


@main.command()
@click.option("--url", help="also connect to this running server")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="check this YAML's settings",
)
@click.option("--token", envvar="AVATAR_TOKEN", help="access token (or AVATAR_TOKEN)")
@click.option("--json", "as_json", is_flag=True, help="findings as JSON")
def doctor(url: str | None, config: Path | None, token: str | None, as_json: bool) -> None:
    """Check this machine, and with --url a running server; each finding comes with its remedy."""
    from serve_app.client.doctor import examine, load_config, to_json, to_table

    findings = asyncio.run(examine(load_config(config), url=url, token=token))
    click.echo(to_json(findings) if as_json else to_table(findings))
    sys.exit(1 if any(finding.level == "fail" for finding in findings) else 0)


if __name__ == "__main__":
    main()
