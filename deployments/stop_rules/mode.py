"""What `completion_mode` means at a place: the rules `line` and `block` share its text out."""

from __future__ import annotations

from deployments.stop_rules.rule import Asked

_CLOSING = ")]}>;,:\"'` \t"


def ends_with_line(asked: Asked) -> bool:
    """`auto`: the line, where text follows in it; at an empty line, the block; else the statement."""
    place = asked.place
    # A suffix of one line is an example by hand, which leaves the line break out: an editor sends the rest of a file.
    text_follows = "\n" in place.suffix and bool(place.tail.strip(_CLOSING))
    return asked.mode == "line" or (asked.mode == "auto" and (text_follows or place.here.in_comment))


def takes_siblings(asked: Asked) -> bool:
    """`block` takes the rest of the block instead of the statement, unless the cursor's line opens a block itself."""
    opens = asked.place.code.rstrip().endswith((":", "{", "(", "[", " do", " then"))
    return asked.place.blank or (asked.mode == "block" and not opens)
