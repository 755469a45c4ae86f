"""What differs between two fingerprints, in words."""

from collections.abc import Iterator, Mapping

from opd.fingerprints.digests import Part

Fingerprint = dict[str, Part]


def changes(
    before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]
) -> list[dict[str, str]]:
    """What differs between two attempts, as {"field", "text"}, over the fields both could read."""
    return [
        {"field": field, "text": text}
        for field in before
        if field in now
        for text in _differences(before[field], now[field])
    ]


def _differences(before: Fingerprint, now: Fingerprint) -> Iterator[str]:
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if name.endswith("revision") and None in (old, new):
            continue  # without network, it may not be known
        if new is None:
            yield f"{name} removed since the run started"
        elif old is None:
            yield f"{name} added since the run started"
        elif old["digest"] != new["digest"]:
            yield _difference(name, old, new)


def _difference(name: str, old: Part, new: Part) -> str:
    if "bytes" not in new:
        return f"{name} is {new['digest']}, was {old['digest']} when the run started"
    what = str(new.get("file", name))
    rows = old.get("rows"), new.get("rows")
    if None not in rows and rows[0] != rows[1]:
        return f"{what} has {rows[1]:,} rows, {rows[0]:,} when the run started"
    if old["bytes"] != new["bytes"]:
        sizes = f"{new['bytes']:,} bytes, {old['bytes']:,} when the run started"
        return f"{what} changed: {sizes}"
    return f"{what} changed, with the same number of bytes"
