"""Where a page of images ended, as text that a client hands back."""

import base64
import json

from aladin.collection.store import Position
from aladin.server.problems import Problem


def cursor_of(position: Position) -> str:
    """Its name."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def position_of(cursor: str) -> Position:
    """The position that a cursor names; Problem 422 for one that was never given out."""
    try:
        date, image_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if isinstance(date, str) and type(image_id) is int and 0 <= image_id < 1 << 62:
            date.encode()
            return date, image_id
    except (ValueError, TypeError):
        pass
    raise Problem(422, "the cursor is none of this server's; begin without one")
