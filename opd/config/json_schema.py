"""JSON schemas that a user gives: checked before a run, resolved within themselves."""

from typing import Any


def check_schema(schema: dict[str, Any]) -> None:
    """Raises ValueError for what is not a JSON schema, or refers to one outside of it."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only where a schema is given
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"is not a valid JSON schema ({error.message[:200]})") from None
    registry: Any = Registry()
    resolver = registry.resolver_with_root(DRAFT202012.create_resource(schema))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ValueError(
                f"$ref {reference!r:.200} is not within the schema; others are not fetched"
            ) from None


def _references(schema: Any) -> list[str]:
    """Every $ref and $dynamicRef, wherever it stands."""
    references, stack = [], [schema]
    while stack:
        node = stack.pop()
        stack += children(node)
        if isinstance(node, dict):
            references += [v for k in ("$ref", "$dynamicRef") if isinstance(v := node.get(k), str)]
    return references


def children(node: Any) -> list[Any]:
    """What stands directly inside an object or array of JSON."""
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
