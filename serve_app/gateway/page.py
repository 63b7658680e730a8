"""What the page must know before it opens a session."""

from __future__ import annotations

from serve_app.avatars.store import AvatarStore
from serve_app.config import AppConfig
from serve_app.speech.voices import NAMES


def page_settings(config: AppConfig) -> dict[str, object]:
    """Return the settings of `GET /config.json`; ICE credentials go only to callers that were admitted."""
    store = AvatarStore(config.avatars.store)
    is_open = config.auth.is_open
    return {
        "ice_servers": [server.for_client() for server in config.ice.servers] if is_open else [],
        "video": {"width": 512, "height": 512, "fps": config.fps_of(config.model)},
        "avatars": [
            {
                "avatar_id": card.avatar_id,
                "name": card.name,
                "preview": f"avatars/{card.avatar_id}/preview.png",
            }
            for card in store.cards()
        ],
        "uploads": config.avatars.uploads and store.takes_new_ones,
        "default_avatar": config.avatars.default,
        "model": config.model,
        "agent": config.agents.default,
        "voices": list(NAMES),
        "default_voice": config.agents.voice,
        "token_required": not is_open,
        "limits": {
            "max_chunk_bytes": config.gateway.max_chunk_bytes,
            "min_utterance_s": config.speech.min_utterance_s,
        },
    }
