"""The configuration: one frozen tree, the builder's single argument.

Unknown keys are refused, so a typing error in a YAML file stops the start instead of being ignored.
Three variables of document 000's compose file override it: MODEL_TYPE, VIDEO_FPS, PARALLEL_PROCESSING.
Secrets come from AVATAR_API_KEYS, AVATAR_SESSION_SECRET, TURN_SECRET, TURN_USERNAME, TURN_CREDENTIAL and
LIVEKIT_API_SECRET, for Serve writes what a file holds into its log. AVATAR_PUBLIC_ADDRESS says where a
container's machine is seen, TURN_URLS adds a TURN server. AVATAR_RANDOM_WEIGHTS=1, for testing only, runs
every neural model on the CPU with invented weights, so that a configuration for GPUs starts on any machine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

logger = logging.getLogger("serve_app.config")

LogEncoding = Literal["text", "json"]

RANDOM_WEIGHTS = "random"
TAUGHT = frozenset({"portrait", "tracer"})
"""Models whose weights, if any, are in the package; all others run on weights that are fetched."""

API_KEY_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MIN_KEY_CHARACTERS = 16
"""A hash without salt and stretching hides only what nobody can guess: long, random keys."""

DEFAULT_SESSION_SECRET = "not-a-secret: set AVATAR_SESSION_SECRET"
MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key is at least as long as the hash."""


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown keys, and no values in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ApiKeyConfig(Section):
    """A client's key, hashed at rest, and what it may use; `avatar key` makes one."""

    id: str = Field(pattern=f"^{API_KEY_ID}$", description="names the key in usage and limits")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the key, hexadecimal")
    max_concurrent: int | None = Field(default=None, ge=1, description="sessions at once; None: no limit")
    minutes: float | None = Field(
        default=None, gt=0, description="of sessions in a calendar month (UTC); None: no limit"
    )
    max_duration_s: float | None = Field(
        default=None, gt=0, description="of one session; None: session.max_duration_s alone"
    )


class AuthConfig(Section):
    """Who may enter: API keys, and the tokens that sessions are joined with."""

    required: bool = Field(
        default=False, description="do not start without API keys and a session secret of one's own"
    )
    keys: list[ApiKeyConfig] = Field(default=[], description="without any, and not required: open to all")
    session_secret: SecretStr = Field(
        default=SecretStr(DEFAULT_SESSION_SECRET), description="signs session tokens with HS256"
    )
    jwt_algorithm: Literal["HS256", "RS256"] = "HS256"
    private_key: Path | None = Field(default=None, description="PEM file that signs with RS256")
    public_key: Path | None = Field(default=None, description="PEM file that checks RS256")
    issuer: str = Field(default="avatar", min_length=1, description="`iss` of session tokens")
    audience: str = Field(default="avatar", min_length=1, description="`aud` of session tokens")
    usage_file: Path | None = Field(
        default=None, description="SQLite file that keeps used minutes; None: a new registry begins at zero"
    )

    @property
    def is_open(self) -> bool:
        """Whether everybody may enter."""
        return not self.keys and not self.required

    @model_validator(mode="after")
    def _keys_differ(self) -> AuthConfig:
        if twice := [key_id for key_id, times in Counter(key.id for key in self.keys).items() if times > 1]:
            raise ValueError(f"keys: expected each id once, found {', '.join(sorted(twice))} more often")
        if len({key.sha256 for key in self.keys}) < len(self.keys):
            raise ValueError("keys: expected each id to have a key of its own, found one key under two ids")
        return self

    @model_validator(mode="after")
    def _can_sign(self) -> AuthConfig:
        if self.jwt_algorithm == "RS256" and (self.private_key is None or self.public_key is None):
            raise ValueError("jwt_algorithm RS256: expected private_key and public_key, found one or none")
        found = len(self.session_secret.get_secret_value().encode())
        if self.jwt_algorithm == "HS256" and found < MIN_SECRET_BYTES:
            raise ValueError(
                "session_secret (AVATAR_SESSION_SECRET): "
                f"expected at least {MIN_SECRET_BYTES} bytes, found {found}"
            )
        return self


class IceServer(Section):
    """A STUN or TURN server, in the shape of W3C's RTCIceServer.

    A TURN server either knows a user, or shares a secret from which credentials with an end are made
    (`use-auth-secret` of coturn; draft-uberti-behave-turn-rest-00, section 2.2).
    """

    urls: list[str] = Field(min_length=1, description="stun:, turn: or turns: addresses")
    username: str | None = None
    credential: SecretStr | None = None
    secret: SecretStr | None = Field(default=None, description="shared with the TURN server")
    credential_lifetime_s: float = Field(
        default=5 * 3600, ge=60, description="of credentials made from `secret`; longer than a session"
    )

    @model_validator(mode="after")
    def _one_way_to_enter(self) -> IceServer:
        if self.secret is not None and (self.username is not None or self.credential is not None):
            raise ValueError("expected either secret, or username and credential, found both")
        return self

    def credentials(self, now_s: float | None = None) -> tuple[str | None, str | None]:
        """Return the username and credential to use from `now_s` on, in POSIX seconds; None: now."""
        if self.secret is None:
            return self.username, None if self.credential is None else self.credential.get_secret_value()
        now_s = time.time() if now_s is None else now_s
        username = f"{int(now_s + self.credential_lifetime_s)}:avatar"
        # SHA-1 is what TURN servers compute; as an HMAC it is not weakened by collisions.
        mac = hmac.new(self.secret.get_secret_value().encode(), username.encode(), hashlib.sha1)
        return username, base64.b64encode(mac.digest()).decode()

    def for_client(self, now_s: float | None = None) -> dict[str, object]:
        """Return the server in the shape of W3C's RTCIceServer, credential included: a client needs it."""
        username, credential = self.credentials(now_s)
        shape: dict[str, object] = {"urls": list(self.urls)}
        if username is not None:
            shape["username"] = username
        if credential is not None:
            shape["credential"] = credential
        return shape

    @property
    def needs_credentials(self) -> bool:
        """Whether this is a TURN server that nobody can enter: RFC 8656 servers refuse those."""
        is_turn = any(url.startswith(("turn:", "turns:")) for url in self.urls)
        return is_turn and self.username is None and self.secret is None


class IceConfig(Section):
    """How peers find each other. Without servers nothing outside is contacted."""

    servers: list[IceServer] = Field(default=[], description="given to clients and used by this server")
    udp_port_range: tuple[int, int] | None = Field(
        default=None, description="first and last UDP port for media; None takes ephemeral ports"
    )
    public_address: str | None = Field(
        default=None, description="address to announce in place of the host's own (1:1 NAT, Kubernetes)"
    )
    loopback: bool = Field(default=False, description="also offer 127.0.0.1, for clients on the same machine")
    gather_timeout_s: float = Field(default=2.0, gt=0, description="longest wait for STUN and TURN answers")
    connect_timeout_s: float = Field(default=15.0, gt=0, description="ICE is reported failed after this")

    @field_validator("public_address")
    @classmethod
    def _public_address_is_numeric(cls, value: str | None) -> str | None:
        return None if value is None else str(ip_address(value))

    @model_validator(mode="after")
    def _ports_in_order(self) -> IceConfig:
        if self.udp_port_range is not None:
            first, last = self.udp_port_range
            if not 1024 <= first <= last <= 65535:
                raise ValueError(
                    f"udp_port_range: expected 1024 <= first <= last <= 65535, got {first}-{last}"
                )
        return self


class EncoderConfig(Section):
    """H.264 as the hosts make it."""

    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "ultrafast"
    start_bitrate_bps: int = Field(default=1_000_000, ge=50_000)
    min_bitrate_bps: int = Field(default=150_000, ge=50_000)
    max_bitrate_bps: int = Field(default=2_500_000, ge=50_000)
    gop_s: float = Field(default=2.0, gt=0, description="keyframe distance in shared base loops")
    threads: int = Field(default=1, ge=1, description="encoder threads of one host")


class RecordingConfig(Section):
    """MP4 files of what was spoken, made from the packets that were sent."""

    enabled: bool = False
    directory: Path = Path("output_videos")
    max_age_s: float = Field(default=24 * 3600, gt=0, description="files older than this are deleted")


class SessionConfig(Section):
    """Session hosts and the lives of sessions."""

    hosts: int = Field(default=1, ge=1, description="warm host actors; with max_hosts: at least")
    max_hosts: int | None = Field(
        default=None, ge=1, description="hosts at most, as places run low; None: `hosts`, always"
    )
    spare_places: int = Field(
        default=4, ge=0, description="with max_hosts: free places from which on another host starts"
    )
    shrink_after_s: float = Field(
        default=300.0, ge=0, description="with max_hosts: fewer hosts must do for so long before one drains"
    )
    max_sessions_per_host: int = Field(default=16, ge=1)
    max_encode_share: float = Field(
        default=0.9,
        gt=0,
        description="a host takes no session that, as measured, would keep its encoder threads busier",
    )
    max_viewers: int = Field(default=8, ge=0, description="those who only watch one session")
    host_num_cpus: float = Field(default=1.0, ge=0, description="CPUs Ray reserves for a host")
    host_resources: dict[str, float] = Field(default={}, description="custom Ray resources of a host")
    host_labels: dict[str, str] = Field(
        default={}, description="labels of the nodes that hosts prefer; they go elsewhere where none has room"
    )
    resume_grace_s: float = Field(
        default=30.0, ge=2, description="how long a session outlives its socket; gateways renew every second"
    )
    negotiation_timeout_s: float = Field(
        default=60.0, gt=0, description="a session without a connected peer ends after this"
    )
    max_duration_s: float = Field(default=4 * 3600, gt=0)
    warn_before_end_s: float = Field(
        default=30.0, ge=0, description="how long before a session runs out its client is told"
    )
    idle_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="a session ends after so long without an utterance or a conversation's turn; None: never",
    )
    retry_after_s: float = Field(default=5.0, gt=0, description="told to clients that find no room")

    @property
    def most_hosts(self) -> int:
        """How many hosts there may be."""
        return self.hosts if self.max_hosts is None else self.max_hosts

    @property
    def is_elastic(self) -> bool:
        """Whether the number of hosts follows the sessions."""
        return self.most_hosts > self.hosts

    @model_validator(mode="after")
    def _bounds_in_order(self) -> SessionConfig:
        if self.most_hosts < self.hosts:
            raise ValueError(f"max_hosts: expected at least hosts ({self.hosts}), got {self.max_hosts}")
        return self


class SpeechConfig(Section):
    """From sound to windows."""

    tick_s: float = Field(
        default=0.1, gt=0, description="windows of sessions that are ahead travel at this beat"
    )
    urgent_tick_s: float = Field(default=0.033, gt=0, description="least distance between two urgent sends")
    first_window_frames: int = Field(default=3, ge=1)
    max_window_frames: int = Field(default=12, ge=1)
    max_ahead_s: float = Field(
        default=1.5, gt=0, description="clips a session may hold before they are shown"
    )
    max_windows_in_flight: int = Field(default=4, ge=1, description="windows of a session without an answer")
    max_buffered_s: float = Field(default=300.0, gt=0, description="unplayed speech a session may hold")
    min_utterance_s: float = Field(default=1.0, ge=0, description="shorter whole utterances are refused")
    pad_short_utterances: bool = Field(default=False, description="pad them with silence instead")


class PlayoutConfig(Section):
    """When sound and picture are shown."""

    start_deadline_s: float = Field(
        default=0.4, gt=0, description="an utterance whose clips are late starts with sound alone after this"
    )
    resume_margin_s: float = Field(
        default=0.04, ge=0, description="sound to have at hand before an interrupted stream goes on"
    )
    hold_picture_s: float = Field(
        default=0.2, ge=0, description="how long a late picture repeats the last one"
    )
    max_delay_s: float = Field(
        default=0.3, ge=0, description="how much later a stream may play when its clips always come late"
    )
    rescue_after_s: float = Field(
        default=0.3, gt=0, description="a host cuts windows itself when sound has waited this long for any"
    )


class AvatarsConfig(Section):
    """Where avatars come from."""

    store: str | None = Field(
        default="~/.serve-app/avatars",
        description="folder of bundles, on every node, or an fsspec URL (s3://…, gs://…) that all reach; "
        "None: the built-in ones alone",
    )
    default: str = "default"
    preload: list[str] = Field(default=[], description="prepared before a replica reports ready")
    aliases: dict[str, str] = Field(
        default={}, description="further ids of avatars, for clients that name those of another service"
    )
    uploads: bool = Field(default=True, description="take photos at POST /v1/avatars/upload-face")
    tools: Path | None = Field(
        default=None, description="environment that finds faces; None: where `avatar tools` puts it"
    )
    max_stored: int = Field(default=1000, ge=0, description="avatars from which on uploads are refused")
    max_uploads_waiting: int = Field(default=4, ge=0, description="uploads that wait for the one being made")


class AnimatorConfig(Section):
    """One model and the deployment that runs it."""

    weights: str | None = Field(
        default=None, description="folder of the weights; None: the package's, or what `avatar models` pulled"
    )
    fps: int | None = Field(default=None, ge=10, le=60, description="of this model's sessions; None: `fps`")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_replicas: int | None = Field(default=1, ge=1, description="fixed replicas; None with autoscaling")
    autoscaling: dict[str, Any] | None = Field(default=None, description="Serve's autoscaling_config")
    sessions_per_replica: int | None = Field(
        default=8,
        ge=1,
        description="speaking sessions a replica carries; None: what it measures at its start",
    )
    ray_actor_options: dict[str, Any] = Field(default={"num_cpus": 1})
    max_surge_percent: int = Field(
        default=100,
        ge=0,
        le=100,
        description="replicas of a new version that start before old ones end; 0 where no device is free",
    )
    max_batch_calls: int = Field(default=16, ge=1, description="calls that may share a device batch")
    max_bucket: int | None = Field(
        default=None, ge=1, description="frames given to the model at once; None: as many as are due"
    )
    degrade: Literal["auto", "never"] = Field(
        default="auto", description="what a model does that falls behind: fewer frames, then the base loop"
    )

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> AnimatorConfig:
        if (self.num_replicas is None) == (self.autoscaling is None):
            raise ValueError("give either num_replicas or autoscaling, and set the other to null")
        return self


class RealtimeUpstream(Section):
    """An OpenAI-compatible Realtime server that the agent `realtime` speaks through.

    Its key comes from OPENAI_API_KEY; OPENAI_BASE_URL, where set, takes the place of `base_url`.
    """

    base_url: str | None = Field(default=None, description="https://host/v1; None: the client's own default")
    model: str = "gpt-realtime"
    connect_timeout_s: float = Field(default=10.0, gt=0)


class AgentsConfig(Section):
    """Who speaks behind the doors that hold conversations."""

    default: Literal["echo", "scripted", "realtime"] = "echo"
    script: Path | None = Field(default=None, description="YAML file of the agent `scripted`")
    voice: str = Field(default="alloy", description="voice of conversations that name none")
    upstream: RealtimeUpstream = RealtimeUpstream()
    max_response_s: float = Field(default=120.0, gt=0, description="longest speech of one response")
    max_turn_s: float = Field(default=120.0, gt=0, description="longest turn of a user")


class RealtimeConfig(Section):
    """The OpenAI Realtime door."""

    model: str = Field(default="gpt-realtime", description="echoed to clients that name none")
    max_session_s: float = Field(default=3600.0, gt=0, description="never beyond session.max_duration_s")


class Ag2Config(Section):
    """The AG2 door: what the agent behind `/session` is told, and the functions it may call."""

    model: str = "gpt-4o-mini-realtime-preview"
    voice: str = "alloy"
    instructions: str = "You are a friendly voice assistant with a face. Keep your answers short."
    temperature: float = Field(default=0.8, ge=0.6, le=1.2)
    functions: list[str] = Field(
        default=[], description='registries to serve, "package.module:name"; imported by every gateway'
    )
    function_timeout_s: float = Field(default=20.0, gt=0, description="longest wait for a function's result")


class LinkConfig(Section):
    """A start link: whoever knows its id may open a session with it, without an API key."""

    id: str = Field(pattern=r"^lnk_[A-Za-z0-9_-]{8,64}$")
    avatar: str | None = None
    key_id: str | None = Field(default=None, description="the API key its sessions are counted against")


class RoomsConfig(Section):
    """Rooms that avatars join: the callers' own, and those made for start links.

    LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET name the LiveKit server of start links.
    """

    allowed_hosts: list[str] = Field(
        default=[], description="hosts whose rooms may be joined, with * as wildcard; empty: any"
    )
    absent_after_s: float = Field(
        default=180.0, gt=0, description="a room that nobody else enters for so long is left"
    )
    empty_after_s: float = Field(
        default=30.0, gt=0, description="so is one that everybody else has left; a page reloads within it"
    )
    livekit_url: str | None = Field(default=None, pattern=r"^wss?://")
    livekit_api_key: str | None = None
    livekit_api_secret: SecretStr | None = None
    links: list[LinkConfig] = []


class GatewayConfig(Section):
    """The ingress."""

    num_replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.5, ge=0)
    max_ongoing_requests: int = Field(default=400, ge=1, description="open sockets and requests a replica")
    drain_s: float = Field(
        default=30.0,
        gt=0,
        description="how long the sockets of a gateway that is replaced stay open; then they are resumed "
        "(behind HAProxy it is RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S)",
    )
    allowed_origins: list[str] = Field(
        default=[], description="browser origins; empty: the page's own host only"
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/]+$",
        description="where clients reach this server; None: where their own request went",
    )
    max_sockets_per_address: int | None = Field(
        default=None,
        ge=1,
        description="open sockets of one client address at each gateway (of an IPv6 /64); None: no limit",
    )
    address_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="where this server's own proxy names the client: x-forwarded-for, its last entry; None: "
        "the peer is the client",
    )
    max_chunk_bytes: int = Field(default=1_048_576, ge=1024, description="decoded agent.audio.chunk")
    max_utterance_bytes: int = Field(default=11 * 1_048_576, ge=1024, description="decoded agent.speak")


class NavTalkConfig(Section):
    """The door of NavTalk's clients (document 002)."""

    provider_name: str = Field(
        default="OpenAIRealtime", description="told as providerName; old mobile SDKs want openai"
    )
    sends_sound: bool = Field(
        default=False, description="also send the answer as realtime.response.audio.delta"
    )
    silence_s: float = Field(
        default=0.5, gt=0, description="model=transparency: an utterance ends this long after its last sound"
    )


class AppConfig(Section):
    """Everything `serve_app.main:build` needs."""

    model: str = Field(default="portrait", description="model of sessions that name none")
    fps: int = Field(default=30, ge=10, le=60)
    animators: dict[str, AnimatorConfig] = Field(default={"portrait": AnimatorConfig()})
    log_encoding: LogEncoding = Field(default="text", description="of the application's own log lines")
    avatars: AvatarsConfig = AvatarsConfig()
    agents: AgentsConfig = AgentsConfig()
    rooms: RoomsConfig = RoomsConfig()
    auth: AuthConfig = AuthConfig()
    gateway: GatewayConfig = GatewayConfig()
    navtalk: NavTalkConfig = NavTalkConfig()
    realtime: RealtimeConfig = RealtimeConfig()
    ag2: Ag2Config = Ag2Config()
    session: SessionConfig = SessionConfig()
    speech: SpeechConfig = SpeechConfig()
    playout: PlayoutConfig = PlayoutConfig()
    encoder: EncoderConfig = EncoderConfig()
    ice: IceConfig = IceConfig()
    recording: RecordingConfig = RecordingConfig()

    @model_validator(mode="after")
    def _model_has_animator(self) -> AppConfig:
        if self.model not in self.animators:
            raise ValueError(f"model {self.model!r} has no animator; configured: {sorted(self.animators)}")
        return self

    def fps_of(self, model: str) -> int:
        """Return the frames per second of a model's sessions."""
        mine = self.animators.get(model)
        return self.fps if mine is None or mine.fps is None else mine.fps


def with_environment(config: AppConfig, environ: Mapping[str, str] | None = None) -> AppConfig:
    """Return `config` with the variables named in this module's docstring applied.

    Args:
        config: what the file says.
        environ: variables; os.environ when None.

    Raises:
        ValueError: a variable has a value that cannot be used, or a closed server lacks its secrets; the
            message names the variables and says what was expected, and shows no secret.
    """
    environ = os.environ if environ is None else environ
    changes: dict[str, Any] = {}
    animators = dict(config.animators)
    if model := environ.get("MODEL_TYPE"):
        names = {name.lower(): name for name in config.animators}
        if model.lower() not in names:
            raise ValueError(f"MODEL_TYPE: expected one of {sorted(config.animators)}, got {model!r}")
        changes["model"] = names[model.lower()]
    if fps := environ.get("VIDEO_FPS"):
        if not fps.isdigit() or not 10 <= int(fps) <= 60:
            raise ValueError(f"VIDEO_FPS: expected a whole number from 10 to 60, got {fps!r}")
        changes["fps"] = int(fps)
        # The variable is for all models: those of a slower rate of their own interpolate.
        animators = {name: mine.model_copy(update={"fps": None}) for name, mine in animators.items()}
    if not _flag(environ, "PARALLEL_PROCESSING", default=True):
        changes["speech"] = config.speech.model_copy(update={"max_windows_in_flight": 1})
    if _flag(environ, "AVATAR_RANDOM_WEIGHTS"):
        animators = {name: _with_random_weights(name, mine) for name, mine in animators.items()}
    changes["animators"] = animators
    changes["auth"] = _auth_with_environment(config.auth, environ)
    changes["rooms"] = _rooms_with_environment(config.rooms, environ)
    changes["ice"] = _ice_with_environment(config.ice, environ)
    return config.model_copy(update=changes)


def _flag(environ: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    flags = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    found = environ.get(name, "").lower()
    if found and found not in flags:
        raise ValueError(f"{name}: expected true or false, got {environ[name]!r}")
    return flags.get(found, default)


def _with_random_weights(name: str, mine: AnimatorConfig) -> AnimatorConfig:
    """Return an animator that runs on any machine; a neural one shows nothing worth seeing."""
    options = {
        key: value
        for key, value in mine.ray_actor_options.items()
        if key not in {"num_gpus", "accelerator_type"}
    }
    changes: dict[str, Any] = {"device": "cpu", "ray_actor_options": options}
    if name not in TAUGHT:
        logger.warning("AVATAR_RANDOM_WEIGHTS: model %r runs with invented weights, for testing only", name)
        changes["weights"] = RANDOM_WEIGHTS
    return mine.model_copy(update=changes)


def _rooms_with_environment(rooms: RoomsConfig, environ: Mapping[str, str]) -> RoomsConfig:
    names = {
        "livekit_url": "LIVEKIT_URL",
        "livekit_api_key": "LIVEKIT_API_KEY",
        "livekit_api_secret": "LIVEKIT_API_SECRET",
    }
    given = {field: environ[name] for field, name in names.items() if environ.get(name)}
    return RoomsConfig.model_validate({**dict(rooms), **given})


def _auth_with_environment(auth: AuthConfig, environ: Mapping[str, str]) -> AuthConfig:
    keys = {key.id: key for key in auth.keys}
    for key in _api_keys(environ.get("AVATAR_API_KEYS", "")):
        # A key of the same id takes the place of the file's and keeps its limits.
        known = keys.get(key.id)
        keys[key.id] = key if known is None else known.model_copy(update={"sha256": key.sha256})
    changes: dict[str, Any] = {"keys": list(keys.values())}
    if secret := environ.get("AVATAR_SESSION_SECRET"):
        changes["session_secret"] = SecretStr(secret)
    auth = AuthConfig.model_validate({**dict(iter(auth)), **changes})
    faults = []
    if auth.required and not auth.keys:
        faults.append("AVATAR_API_KEYS: expected at least one API key, found none; `avatar key` makes one")
    is_default = auth.session_secret.get_secret_value() == DEFAULT_SESSION_SECRET
    if not auth.is_open and auth.jwt_algorithm == "HS256" and is_default:
        faults.append(
            f"AVATAR_SESSION_SECRET: expected a secret of at least {MIN_SECRET_BYTES} bytes, found none; "
            "`openssl rand -base64 48` makes one"
        )
    if faults:
        raise ValueError("\n".join(faults))
    return auth


def _api_keys(listed: str) -> list[ApiKeyConfig]:
    """Read "id:key,id2:key2"; a key without an id is named after its hash."""
    keys: list[ApiKeyConfig] = []
    for number, entry in enumerate((item.strip() for item in listed.split(",")), 1):
        if not entry:
            continue
        key_id, _, plain = entry.rpartition(":")
        if len(plain) < MIN_KEY_CHARACTERS or not plain.isascii():
            raise ValueError(
                f"AVATAR_API_KEYS: expected keys of at least {MIN_KEY_CHARACTERS} ASCII characters, "
                f"entry {number} is none; `avatar key` makes one"
            )
        sha256 = hashlib.sha256(plain.encode()).hexdigest()
        key_id = key_id or f"key-{sha256[:8]}"
        if not re.fullmatch(API_KEY_ID, key_id):
            raise ValueError(
                f"AVATAR_API_KEYS: expected id:key with an id of at most 64 of A-Z a-z 0-9 . _ -, "
                f"entry {number} has another"
            )
        if key_id in {key.id for key in keys}:
            raise ValueError(f"AVATAR_API_KEYS: expected each id once, entry {number} repeats one")
        keys.append(ApiKeyConfig(id=key_id, sha256=sha256))
    return keys


def _ice_with_environment(ice: IceConfig, environ: Mapping[str, str]) -> IceConfig:
    changes: dict[str, Any] = {}
    if address := environ.get("AVATAR_PUBLIC_ADDRESS"):
        changes["public_address"] = str(ip_address(address))
    servers = [*ice.servers, *_turn_servers(environ.get("TURN_URLS", ""))]
    username, credential = environ.get("TURN_USERNAME"), environ.get("TURN_CREDENTIAL")
    if bool(username) != bool(credential):
        raise ValueError("TURN_USERNAME and TURN_CREDENTIAL: expected both or neither, got one of them")
    secret = environ.get("TURN_SECRET")
    if secret and username:
        raise ValueError("TURN_SECRET: expected it in place of TURN_USERNAME and TURN_CREDENTIAL, got both")
    if secret or credential:
        mine = (
            {"secret": SecretStr(secret)}
            if secret
            else {"username": username, "credential": SecretStr(credential or "")}
        )
        servers = [
            server.model_copy(update=mine) if server.needs_credentials else server for server in servers
        ]
    return ice.model_copy(update={**changes, "servers": servers})


def _turn_servers(listed: str) -> list[IceServer]:
    """Read "turn:host:3478?transport=udp,turns:host:5349" as one server with several addresses."""
    urls = [url.strip() for url in listed.split(",") if url.strip()]
    if wrong := [url for url in urls if not url.startswith(("turn:", "turns:"))]:
        raise ValueError(f"TURN_URLS: expected turn: or turns: addresses, got {wrong[0]!r}")
    return [IceServer(urls=urls)] if urls else []
