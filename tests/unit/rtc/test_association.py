import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcsctptransport import (
    SCTP_DATA_FIRST_FRAG,
    SCTP_DATA_LAST_FRAG,
    SCTP_DATA_UNORDERED,
    DataChunk,
    ForwardTsnChunk,
    SackChunk,
    serialize_packet,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.rtc.association import (
    MAX_CHUNKS,
    MAX_STREAMS,
    MAX_WAITING_CHUNKS,
    PRIVATE_ATTRIBUTES,
    Association,
)

pytestmark = pytest.mark.unit

WHOLE = SCTP_DATA_FIRST_FRAG | SCTP_DATA_LAST_FRAG
STRING, DCEP = 51, 50
OPEN = b"\x03\x00\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x00oai-events"


@pytest.fixture
async def association() -> AsyncIterator[Any]:
    """Yields an association that is established with nobody, whose DTLS is not connected."""
    pc = RTCPeerConnection()
    pc.createDataChannel("oai-events", negotiated=True, id=40)
    sctp = pc.sctp
    Association.adopt(sctp)
    sctp._last_received_tsn = 0
    sctp._remote_port = 5000
    sctp._ssthresh = 100_000
    sctp._set_state(sctp.State.ESTABLISHED)
    yield sctp
    await sctp.stop()
    await pc.close()


def chunk(
    tsn: int, data: bytes = b"x", *, flags: int = WHOLE, stream: int = 0, pp_id: int = STRING, seq: int = 0
) -> DataChunk:
    made = DataChunk(flags=flags)
    made.tsn, made.stream_id, made.stream_seq, made.protocol, made.user_data = tsn, stream, seq, pp_id, data
    return made


async def feed(association: Any, *chunks: Any) -> None:
    for one in chunks:
        await association._handle_data(serialize_packet(5000, 5000, association._local_verification_tag, one))


async def test_what_is_used_of_aiortc_is_there(association: Any) -> None:
    assert [name for name in PRIVATE_ATTRIBUTES if not hasattr(association, name)] == []


async def test_messages_arrive(association: Any) -> None:
    got: list[str] = []
    association.on("datachannel", lambda channel: channel.on("message", got.append))
    await feed(association, chunk(1, OPEN, pp_id=DCEP), chunk(2, b"hel", flags=SCTP_DATA_FIRST_FRAG, seq=1))
    await feed(association, chunk(3, b"lo", flags=SCTP_DATA_LAST_FRAG, seq=1), chunk(4, b"you", seq=2))
    assert got == ["hello", "you"]


async def test_text_that_is_not_text_ends_nothing(association: Any, caplog: pytest.LogCaptureFixture) -> None:
    got: list[str] = []
    association.on("datachannel", lambda channel: channel.on("message", got.append))
    await feed(association, chunk(1, OPEN, pp_id=DCEP), chunk(2, b"\xff\xfe", seq=1))
    await feed(association, chunk(3, OPEN, pp_id=DCEP, seq=2), chunk(4, b"ok", seq=3))
    assert got == ["ok"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_message_without_end_is_not_kept_for_ever(association: Any) -> None:
    for tsn in range(1, 3 * MAX_CHUNKS):
        flags = SCTP_DATA_FIRST_FRAG if tsn == 1 else 0
        await association._receive_data_chunk(chunk(tsn, b"x", flags=flags))
    assert sum(len(stream.reassembly) for stream in association._inbound_streams.values()) <= MAX_CHUNKS
    big = b"x" * 60_000
    for tsn in range(MAX_CHUNKS, MAX_CHUNKS + 40):
        await association._receive_data_chunk(chunk(tsn, big, flags=0, stream=1))
    assert association._advertised_rwnd >= 0


async def test_a_gap_keeps_so_much_and_no_more(association: Any) -> None:
    for tsn in range(5, 5 + 3 * MAX_WAITING_CHUNKS):
        await association._receive_data_chunk(chunk(tsn, flags=WHOLE | SCTP_DATA_UNORDERED))
    assert len(association._sack_misordered) <= MAX_WAITING_CHUNKS
    await feed(association, *(chunk(tsn) for tsn in range(1, 5)))
    assert association._last_received_tsn >= MAX_WAITING_CHUNKS
    assert not association._sack_misordered


async def test_streams_are_counted(association: Any) -> None:
    for n in range(500):
        await feed(association, chunk(n + 1, OPEN, pp_id=DCEP, stream=1000 + n))
    assert len(association._inbound_streams) == MAX_STREAMS
    assert len(association._data_channels) == MAX_STREAMS + 1
    leap = ForwardTsnChunk()
    leap.cumulative_tsn, leap.streams = 900, [(n, 1) for n in range(250)]
    await feed(association, leap)
    assert len(association._inbound_streams) == MAX_STREAMS


async def test_an_acknowledgement_of_nothing_costs_nothing(association: Any) -> None:
    sack = SackChunk()
    sack.cumulative_tsn, sack.advertised_rwnd = association._last_sacked_tsn, 1000
    sack.gaps, sack.duplicates = [(1, 65535)] * 300, []
    start_s = time.perf_counter()
    await feed(association, *[sack] * 20)
    assert time.perf_counter() - start_s < 0.5


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40)), max_size=4))
async def test_whatever_comes_is_survived(association: Any, chunks: list[tuple[int, int, bytes]]) -> None:
    class Raw:
        def __init__(self, kind: int, flags: int, body: bytes) -> None:
            self.data = bytes([kind, flags]) + (len(body) + 4).to_bytes(2, "big") + body
            self.data += b"\0" * (-len(self.data) % 4)

        def __bytes__(self) -> bytes:
            return self.data

    for kind, flags, body in chunks:
        raw: Any = Raw(kind % 16 if kind < 200 else kind, flags, body)
        await feed(association, raw)
    await association._handle_data(b"".join(body for _, _, body in chunks))
