"""Publishing a session into somebody else's room: LiveKit and Daily, each at the edge of its own SDK.

What was not run: no room server of either kind could be reached where this was written, so nobody has seen
the avatar in a real room. Tested are the installed SDKs up to the network (livekit 1.2, daily-python 0.36):
that they have every call, option and event that is used, publish what the avatar gives them, convert and hand
over the sound of a microphone, take the settings it joins with, and refuse unreachable servers as expected.
What stands behind a fake: being let in and subscribed to, byte streams, remote calls and data messages of
LiveKit, tracks of remote participants, Daily's calls and renderers of remote sound. Reconnecting after a lost
network is left to the SDKs, and so is their estimate of the bandwidth; neither was watched.

AgentHuman's LiveKit plugin is served by the avatar-worker protocol (`livekit_worker`), and by data messages
{"state", "reason"} on the topic `session.state`, whose states are this server's own: "joined", then "empty",
"left" or "failed". Its Pipecat service asks for platform "proxy", which is no LiveKit room here: it is given
an address of WHEP and the token for it.
"""
