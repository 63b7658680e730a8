import pytest
import torch
from torch import Tensor

from serve_app.errors import ModelOutOfMemory
from serve_app.models.neural.residency import Residency

pytestmark = pytest.mark.unit

META = torch.device("meta")
KIB = 1024


def group(kib: int = 1) -> dict[str, Tensor]:
    return {"latents": torch.zeros(kib * KIB, dtype=torch.uint8)}


def test_longest_unused_goes_when_the_budget_is_full() -> None:
    residency = Residency(META, 2 * KIB)
    for name in "abc":
        residency.put(name, group())
    residency.get("a")
    residency.get("b")
    residency.get("a")
    residency.get("c")
    assert residency.resident_bytes == 2 * KIB
    assert residency.moves == 3
    residency.get("a")
    assert residency.moves == 3
    residency.get("b")
    assert residency.moves == 4


def test_group_larger_than_the_budget_stays_alone() -> None:
    residency = Residency(META, KIB)
    residency.put("small", group())
    residency.put("large", group(4))
    residency.get("small")
    assert residency.get("large")["latents"].device == META
    assert residency.resident_bytes == 4 * KIB


def test_put_again_replaces_and_drop_forgets() -> None:
    residency = Residency(META, 8 * KIB)
    residency.put("a", group())
    residency.get("a")
    residency.put("a", group(2))
    assert residency.get("a")["latents"].numel() == 2 * KIB
    assert "a" in residency
    residency.drop("a")
    residency.drop("a")
    assert "a" not in residency
    assert residency.resident_bytes == 0
    with pytest.raises(KeyError):
        residency.get("a")


def test_nothing_is_copied_on_the_cpu() -> None:
    residency = Residency(torch.device("cpu"), 0)
    residency.put("a", group())
    assert residency.get("a")["latents"] is residency.get("a")["latents"]
    assert residency.moves == 0


class Crowded(Residency):
    """A device whose memory suffices for one group."""

    def _copy(self, host: object) -> dict[str, Tensor]:
        if self._resident or host is self._host.get("huge"):
            raise torch.OutOfMemoryError
        return super()._copy(host)  # type: ignore[arg-type]


def test_full_device_sends_the_others_away_and_tries_again() -> None:
    residency = Crowded(META, 100 * KIB)
    residency.put("a", group())
    residency.put("b", group())
    residency.put("huge", group())
    residency.get("a")
    residency.get("b")
    assert residency.resident_bytes == KIB
    with pytest.raises(ModelOutOfMemory, match=r"'huge'.*1024 bytes"):
        residency.get("huge")
