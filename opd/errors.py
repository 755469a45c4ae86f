"""What a user can mend, as exceptions."""


class UserError(Exception):
    """Something a user can mend: `where` names the field or file, the text says what to do."""

    def __init__(self, message: str, *, where: str = "", kind: str = "bad input") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ConfigError(UserError):
    """A configuration that cannot run; `problems` has one entry a field: {"field", "message"}."""

    def __init__(self, problems: list[dict[str, str]]) -> None:
        self.problems = problems
        text = "; ".join(
            f"{p['field']}: {p['message']}" if p["field"] else p["message"] for p in problems
        )
        super().__init__(text, kind="bad configuration")
