"""The options of `opd serve`, as the command line takes and explains them."""

from typing import Annotated

import typer

Host = Annotated[str, typer.Option(help="Address to bind to.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")]
Token = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]TOKEN",
        help="Access token to use instead of the stored one; with a name, that person's; "
        "repeatable.",
    ),
]
ViewToken = Annotated[str | None, typer.Option(help="Second token with read-only access.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Host name the server may be reached by; repeatable."),
]
RootPath = Annotated[str, typer.Option(help="Path prefix added by a reverse proxy.")]
AllowFrame = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Origin of a page that may show the dashboard in a frame; repeatable.",
    ),
]
ModelRoot = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR", help="Folder whose models can be chosen on the page; repeatable."),
]
DataRoot = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR", help="Folder whose data files can be chosen on the page; repeatable."
    ),
]
UploadLimit = Annotated[
    int,
    typer.Option(
        metavar="MB", min=0, max=100_000, help="Largest data file to upload; 0 takes none."
    ),
]
Webhook = Annotated[
    str | None,
    typer.Option(
        envvar="OPD_WEBHOOK", metavar="URL", help="URL that receives a POST when a run ends."
    ),
]
StandbyKept = Annotated[
    bool,
    typer.Option(
        envvar="OPD_STANDBY",
        help="Keep a process with its libraries loaded, so that a run starts at once.",
    ),
]
LauncherName = Annotated[
    str,
    typer.Option(
        "--launcher",
        envvar="OPD_LAUNCHER",
        metavar="NAME",
        help="Cluster that runs the jobs: slurm, or ray=http://HOST:8265 (docs/cluster.md).",
        show_default="this machine",
    ),
]
Mcp = Annotated[
    bool, typer.Option("--mcp", help="Serve the endpoints to assistants as an MCP server.")
]
