"""The first schema."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ARRAYS = (
    *("completion_ids", "sampler_logprobs", "student_logprobs", "teacher_logprobs", "reverse_kl"),
    *("student_entropy", "teacher_entropy", "advantages", "teacher_rank", "mask"),
    *("student_topk_ids", "student_topk_logprobs", "student_topk_other", "student_topk_tail"),
    *("teacher_topk_ids", "teacher_topk_logprobs", "teacher_topk_other", "teacher_topk_tail"),
)
RUNNING = sa.text("status = 'running'")


def upgrade() -> None:
    _run()
    _run_tag()
    _step()
    _evaluation()
    _checkpoint()
    _prompt()
    _rollout()
    _token_record()
    _hot_token()
    _vocabulary()


def _run() -> None:
    text = ("name", "recipe", "student", "teacher", "objective", "device", "notes", "phase")
    loaded = ("loaded_device", "tokenizer", "error_kind", "error_text", "hint")
    times = ("deleted_at", "owner_started", "heartbeat_at", "cancel_at", "started_at")
    op.create_table(
        "run",
        _key("id", sa.String(32)),
        *_needed(sa.Text(), *text, *loaded),
        *_needed(sa.String(16), "status", "source"),
        *_needed(sa.JSON(), "config", "resolved", "versions", "parameters", "scales"),
        *_needed(sa.BigInteger(), "seed", "steps", "step", "tokens", "bytes"),
        *_needed(sa.Float(), "created_at", "queued_at", "seconds", "flops"),
        *_needed(sa.Integer(), "attempt"),
        *_needed(sa.Boolean(), "hidden"),
        *_optional(sa.String(32), "parent"),
        *_optional(sa.String(16), "cancel_mode"),
        *_optional(sa.Text(), "request_key", "slot", "owner_boot", "score_suite"),
        *_optional(sa.BigInteger(), "owner_pid"),
        *_optional(sa.Float(), *times, "attempt_at", "finished_at", "kl", "score", "score_start"),
        sa.ForeignKeyConstraint(["parent"], ["run.id"], "fk_run_parent", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.UniqueConstraint("request_key", name="uq_run_request_key"),
    )
    _index("run", "created_at")
    _index("run", "parent")
    _index("run", "status", "queued_at")
    op.create_index(
        "uq_run_slot_while_running",
        "run",
        ["slot"],
        unique=True,
        sqlite_where=RUNNING,
        postgresql_where=RUNNING,
    )


def _run_tag() -> None:
    op.create_table(
        "run_tag",
        _key("run_id", sa.String(32)),
        _key("tag", sa.String(100)),
        _of_run("run_tag"),
        sa.PrimaryKeyConstraint("run_id", "tag", name="pk_run_tag"),
    )
    _index("run_tag", "tag")


def _step() -> None:
    op.create_table(
        "step",
        _key("run_id", sa.String(32)),
        _key("step", sa.BigInteger()),
        *_needed(sa.Integer(), "attempt"),
        *_needed(sa.Float(), "created_at", "flops"),
        *_needed(sa.BigInteger(), "tokens"),
        *_needed(sa.JSON(), "seconds", "metrics"),
        _of_run("step"),
        sa.PrimaryKeyConstraint("run_id", "step", name="pk_step"),
    )


def _evaluation() -> None:
    op.create_table(
        "evaluation",
        _key("run_id", sa.String(32)),
        _key("step", sa.BigInteger()),
        _key("suite", sa.String(200)),
        _key("metric", sa.String(200)),
        *_needed(sa.Integer(), "number"),
        *_needed(sa.BigInteger(), "n"),
        *_optional(sa.Float(), "value", "standard_error"),
        _of_run("evaluation"),
        sa.PrimaryKeyConstraint("run_id", "step", "suite", "metric", name="pk_evaluation"),
    )


def _checkpoint() -> None:
    op.create_table(
        "checkpoint",
        _key("run_id", sa.String(32)),
        _key("step", sa.BigInteger()),
        *_needed(sa.Text(), "path"),
        *_needed(sa.JSON(), "manifest"),
        *_needed(sa.Float(), "created_at"),
        _of_run("checkpoint"),
        sa.PrimaryKeyConstraint("run_id", "step", name="pk_checkpoint"),
    )


def _prompt() -> None:
    op.create_table(
        "prompt",
        _key("id", sa.String(64)),
        *_needed(sa.String(32), "run_id"),
        *_needed(sa.Text(), "text"),
        *_needed(sa.LargeBinary(), "ids"),
        *_optional(sa.Text(), "answer"),
        _of_run("prompt"),
        sa.PrimaryKeyConstraint("id", name="pk_prompt"),
    )
    _index("prompt", "run_id")


def _rollout() -> None:
    sums = ("kl_sum", "kl_mean", "kl_max", "log_ratio_sum", "student_logprob_sum")
    op.create_table(
        "rollout",
        _key("id", sa.String(96)),
        *_needed(sa.String(32), "run_id"),
        *_needed(sa.String(64), "prompt_id"),
        *_needed(sa.BigInteger(), "step", "group", "sample", "tokens", "bytes"),
        *_needed(sa.String(16), "kind", "finish_reason"),
        *_needed(sa.Text(), "completion"),
        *_needed(sa.Float(), "temperature"),
        *_optional(sa.JSON(), "texts"),
        *_optional(sa.Float(), "reward", *sums),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], "fk_rollout_prompt_id"),
        _of_run("rollout"),
        sa.PrimaryKeyConstraint("id", name="pk_rollout"),
    )
    _index("rollout", "prompt_id")
    for name in ("kl_sum", "kl_mean", "kl_max", "log_ratio_sum", "reward", "step", "tokens"):
        _index("rollout", "run_id", name)


def _token_record() -> None:
    op.create_table(
        "token_record",
        _key("rollout_id", sa.String(96)),
        *_needed(sa.Integer(), "version"),
        *_needed(sa.LargeBinary(), "layout"),
        *_optional(sa.LargeBinary(), *ARRAYS),
        _of_rollout("token_record"),
        sa.PrimaryKeyConstraint("rollout_id", name="pk_token_record"),
    )


def _hot_token() -> None:
    op.create_table(
        "hot_token",
        _key("rollout_id", sa.String(96)),
        _key("position", sa.BigInteger()),
        *_needed(sa.String(32), "run_id"),
        *_needed(sa.BigInteger(), "step", "token_id"),
        *_needed(sa.String(16), "kind"),
        *_needed(sa.Float(), "heat"),
        *_optional(sa.Float(), "reverse_kl", "student_logprob", "teacher_logprob"),
        *_optional(sa.BigInteger(), "wanted_id"),
        *_optional(sa.Float(), "wanted_logprob"),
        _of_rollout("hot_token"),
        _of_run("hot_token"),
        sa.PrimaryKeyConstraint("rollout_id", "position", name="pk_hot_token"),
    )
    _index("hot_token", "run_id", "heat")


def _vocabulary() -> None:
    op.create_table(
        "vocabulary",
        _key("fingerprint", sa.String(128)),
        _key("id", sa.BigInteger()),
        *_needed(sa.LargeBinary(), "bytes"),
        *_needed(sa.Boolean(), "special"),
        sa.PrimaryKeyConstraint("fingerprint", "id", name="pk_vocabulary"),
    )


def _key(name: str, of: Any) -> sa.Column[Any]:
    return sa.Column(name, of, nullable=False)


def _needed(of: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, of, nullable=False) for name in names]


def _optional(of: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, of) for name in names]


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_run_id"
    return sa.ForeignKeyConstraint(["run_id"], ["run.id"], name, ondelete="CASCADE")


def _of_rollout(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_rollout_id"
    return sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name, ondelete="CASCADE")


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))
