"""Viewers of sessions that other doors opened, and calls by Pipecat's way of offering."""

from __future__ import annotations

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from serve_app.client.received import Receiver
from serve_app.nouns import SPEECH_HZ
from tests.integration.echoes import assert_echoed, assert_heard
from tests.integration.keys import ADA, BOB
from tests.integration.listener import Listener, next_event, session, speech
from tests.integration.whep_viewer import watching
from tests.realtime_call import Microphone, RealtimeCall, bearer, calling, spoken
from tests.server import Server
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.integration

WAIT_S = 20.0


async def test_a_viewer_sees_an_a2v_session_beside_its_client(doors: Server) -> None:
    said = speech(2.0, seed=86)
    async with session(doors.url(token=ADA)) as (client, listener, inbox):
        async with watching(f"{doors.http}/whep/{client.session_id}", ADA) as viewer:
            await client.speak(said, SPEECH_HZ)
            await next_event(inbox, "generation.completed")
            await until(lambda: viewer.listener.pictures[-1].index is None)
        # The client goes on when the viewer has left.
        seen = len(listener.pictures)
        await until(lambda: len(listener.pictures) > seen + 10)
    for one in (listener, viewer.listener):
        assert one.find(said).is_whole
        assert len(set(one.indices())) > 0.75 * 60


async def test_a_viewer_sees_what_a_caller_hears(doors: Server) -> None:
    said = spoken("Good morning, can you hear me?")
    listener = Listener()
    receiver = Receiver(on_video=listener.see, on_sound=listener.hear)
    async with calling(doors.http, key=ADA, receiver=receiver) as call:
        endpoint = f"{doors.http}/whep/{call.call_id.replace('rtc_', 'sess_')}"
        async with watching(endpoint, ADA) as viewer:
            await call.say(said)
            await call.until("output_audio_buffer.stopped")
            await until(lambda: viewer.listener.pictures[-1].index is None)
        with pytest.raises(httpx.HTTPStatusError) as refused:
            async with watching(endpoint, BOB):
                pass
        assert refused.value.response.status_code == 404
    assert_echoed(listener, said)
    assert_heard(viewer.listener.sound(), said)


async def test_a_viewer_trickles_and_leaves(doors: Server) -> None:
    candidate = "candidate:1 1 udp 2113937151 127.0.0.1 9 typ host"
    async with (
        session(doors.url(token=ADA)) as (client, _, _),
        watching(f"{doors.http}/whep/{client.session_id}", ADA) as viewer,
    ):
        sdp = viewer.peer.localDescription.sdp
        ufrag, password = (
            next(line.partition(":")[2] for line in sdp.splitlines() if line.startswith(f"a=ice-{what}:"))
            for what in ("ufrag", "pwd")
        )
        fragment = (
            f"a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n"
            f"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na={candidate}\r\n"
        )
        headers = {
            "content-type": "application/trickle-ice-sdpfrag",
            "if-match": viewer.etag,
            **bearer(ADA),
        }
        async with httpx.AsyncClient() as http:
            trickled = await http.patch(viewer.resource, content=fragment, headers=headers)
            assert trickled.status_code == 204, trickled.text
            assert (await http.delete(viewer.resource, headers=bearer(BOB))).status_code == 404
            assert (await http.delete(viewer.resource, headers=bearer(ADA))).status_code == 200
            await until(lambda: viewer.peer.connectionState == "closed", 5)
            assert (await http.delete(viewer.resource, headers=bearer(ADA))).status_code == 404


async def test_a_pipecat_client_talks_and_comes_again_with_another_peer(doors: Server) -> None:
    said = [spoken("Good morning, can you hear me?"), spoken("And now over another connection.")]
    pc_id = None
    async with httpx.AsyncClient(base_url=doors.http, headers=bearer(ADA), timeout=WAIT_S) as http:
        for sound in said:
            listener = Listener()
            receiver = Receiver(on_video=listener.see, on_sound=listener.hear)
            peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
            microphone = Microphone()
            call = RealtimeCall("", peer, microphone, 0.0)
            try:
                peer.addTrack(microphone)
                peer.addTransceiver("video", direction="recvonly")
                peer.createDataChannel("oai-events").on("message", call.take)
                await peer.setLocalDescription(await peer.createOffer())
                offer = {"sdp": peer.localDescription.sdp, "type": "offer", "pc_id": pc_id}
                answer = (await http.post("/api/offer", json=offer)).raise_for_status().json()
                assert pc_id in (None, answer["pc_id"])
                pc_id = answer["pc_id"]
                await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
                receiver.attach(peer)
                candidate = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdp_mid": "0"}
                trickled = await http.patch("/api/offer", json={"pc_id": pc_id, "candidates": [candidate]})
                assert trickled.json() == {"status": "success"}
                await until(lambda listener=listener: len(listener.pictures) > 10)  # type: ignore[misc]
                await call.say(sound)
                await call.until("output_audio_buffer.stopped")
            finally:
                receiver.close()
                await peer.close()
            assert_echoed(listener, sound)
        shown = await http.get(f"/v1/sessions/{pc_id}")
        assert shown.status_code == 200
        await http.post(f"/v1/sessions/{pc_id}/end")
