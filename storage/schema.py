"""The tables. The migrations build the same ones, and a test compares the two.

Times are seconds since 1970 (UTC). Per-token quantities are packed arrays (see packing.py).
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from storage.databases.nul import Text
from storage.packing import COLUMNS

BESIDE = "branch"  # kind of rollouts that were asked for beside a run; its figures leave them out

WHOLE = -1  # position of a mark on a rollout as a whole

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

run = Table(
    "run",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("source", String(16), nullable=False),  # train or import
    Column("hidden", Boolean, nullable=False),  # an import that is not whole yet
    Column("deleted_at", Float),
    Column("recipe", Text, nullable=False),
    Column("parent", ForeignKey("run.id", ondelete="SET NULL"), index=True),
    Column("request_key", Text, unique=True),
    Column("student", Text, nullable=False),
    Column("teacher", Text, nullable=False),
    Column("objective", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),  # as configured
    Column("device", Text, nullable=False),
    Column("config", JSON, nullable=False),
    Column("notes", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),  # of name, notes, tags
    # What was loaded
    Column("resolved", JSON, nullable=False),
    Column("versions", JSON, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("loaded_device", Text, nullable=False),
    Column("tokenizer", Text, nullable=False),  # fingerprint of the vocabulary
    Column("evaluation_prompts", JSON),  # of each evaluation: asked for, used, why fewer
    Column("inputs", JSON),  # what it depends on, as it was at the start: see queue/inputs.py
    # Who is working on it
    Column("attempt", Integer, nullable=False),
    Column("slot", Text),
    Column("pool", Text),  # whose slots these are: a machine's, by its boot, or a cluster job's
    Column("owner_pid", BigInteger),
    Column("owner_started", Float),
    Column("owner_boot", Text),
    Column("owner_place", Text),  # host, PID namespace and data directory
    Column("started_by", Text, nullable=False, server_default=text("''")),
    Column("cluster_job", Text),  # what a launcher was given it as, `slurm:17`; null: nothing yet
    Column("heartbeat_at", Float),
    Column("cancel_mode", String(16)),
    Column("cancel_at", Float),
    Column("cancel_by", Text, nullable=False, server_default=text("''")),
    Column("resumed_by", Text, nullable=False, server_default=text("''")),  # last
    Column("phase", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("started_at", Float),
    Column("attempt_at", Float),
    Column("finished_at", Float),
    Column("seconds", Float, nullable=False),  # of the attempts that have ended
    Column("error_kind", Text, nullable=False),
    Column("error_text", Text, nullable=False),
    Column("hint", Text, nullable=False),
    # Why it finished before its last step; empty where it did not
    Column("end_reason", Text, nullable=False, server_default=text("''")),
    # Sums over its records, so that a list of runs reads no other table
    Column("step", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("flops", Float, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("kl", Float),
    Column("score", Float),
    Column("score_start", Float),
    Column("score_suite", Text),
    Column("scales", JSON, nullable=False),  # largest value of each metric
    Column("figures", JSON, nullable=False, server_default=text("'{}'")),  # see write/figures.py
    Index("ix_run_status_queued_at", "status", "queued_at"),
    Index("ix_run_created_at", "created_at"),
    Index(
        "uq_run_pool_slot_while_running",
        "pool",
        "slot",
        unique=True,
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
)

# Machines whose supervisor takes runs
host = Table(
    "host",
    metadata,
    Column("boot", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("devices", JSON, nullable=False),  # its slots, each with its name and memory
    Column("seen_at", Float, nullable=False),  # by the database's clock
    Column("ahead", Float, nullable=False),  # seconds, of its own clock
)

run_tag = Table(
    "run_tag",
    metadata,
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(100), primary_key=True),
    Index("ix_run_tag_tag", "tag"),
)

step = Table(
    "step",
    metadata,
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("flops", Float, nullable=False),
    Column("seconds", JSON, nullable=False),  # by phase
    Column("metrics", JSON, nullable=False),
)

evaluation = Table(
    "evaluation",
    metadata,
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("suite", String(200), primary_key=True),
    Column("metric", String(200), primary_key=True),
    Column("number", Integer, nullable=False),  # the order in which the event named them
    Column("value", Float),
    Column("n", BigInteger, nullable=False),
    Column("standard_error", Float),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("path", Text, nullable=False),
    Column("manifest", JSON, nullable=False),  # file name → SHA-256
    Column("created_at", Float, nullable=False),
)

prompt = Table(
    "prompt",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("ids", LargeBinary, nullable=False),  # little-endian u4
    Column("answer", Text),
    Column("data_row", JSON),  # what a data file needs to give it again; null: not recorded
)

teacher_prompt = Table(
    "teacher_prompt",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("text", Text, nullable=False),
)

rollout = Table(
    "rollout",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), nullable=False),
    Column("prompt_id", ForeignKey("prompt.id"), nullable=False, index=True),
    Column("step", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("group", BigInteger, nullable=False),
    Column("sample", BigInteger, nullable=False),
    Column("completion", Text, nullable=False),
    Column("texts", JSON),  # of each token, where they contradict the run's vocabulary
    Column("finish_reason", String(16), nullable=False),
    Column("temperature", Float, nullable=False),
    Column("reward", Float),
    Column("tokens", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    # Sums over the tokens that count (mask not 0)
    Column("kl_sum", Float),
    Column("kl_mean", Float),
    Column("kl_max", Float),
    Column("log_ratio_sum", Float),
    Column("student_logprob_sum", Float),
    Column("author", String(16), nullable=False, server_default="student"),
    Column("teacher_end", Text),  # token that the teacher read in place of the stop id
    Column("teacher", Text),  # its section of the configuration, of an import its name
    Column("teacher_prompt_id", String(64)),  # null: the teacher read the student's prompt
    Column("staleness", BigInteger),  # null: not recorded, or not trained on
    *(
        Index(f"ix_rollout_run_id_{name}", "run_id", name)
        for name in (
            *("kl_sum", "kl_mean", "kl_max", "log_ratio_sum"),
            *("reward", "step", "tokens", "teacher"),
        )
    ),
)

token_record = Table(
    "token_record",
    metadata,
    Column("rollout_id", ForeignKey("rollout.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("layout", LargeBinary, nullable=False),
    *(Column(name, LargeBinary) for name in COLUMNS),
)

hot_token = Table(
    "hot_token",
    metadata,
    Column("rollout_id", ForeignKey("rollout.id", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("heat", Float, nullable=False),  # reverse KL, or |log-ratio| where there is none
    Column("token_id", BigInteger, nullable=False),
    Column("reverse_kl", Float),
    Column("student_logprob", Float),
    Column("teacher_logprob", Float),
    Column("wanted_id", BigInteger),  # the teacher's likeliest token
    Column("wanted_logprob", Float),
    Index("ix_hot_token_run_id_heat", "run_id", "heat"),
)

# What people mark. A resumed run writes later rollouts again under the same ids, so that a mark
# refers to its rollout by the id alone and outlives that.
mark = Table(
    "mark",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("rollout_id", String(96), nullable=False),
    Column("position", BigInteger, nullable=False),  # WHOLE: the rollout as a whole
    Column("note", Text, nullable=False),
    Column("completion", String(32), nullable=False),  # digest of the text that was marked
    Column("version", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    UniqueConstraint("rollout_id", "position"),
)

vocabulary = Table(
    "vocabulary",
    metadata,
    Column("fingerprint", String(128), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("bytes", LargeBinary, nullable=False),
    Column("special", Boolean, nullable=False),
)

question = Table(
    "question",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String(16), nullable=False),  # queued, running, done, failed
    Column("phase", Text, nullable=False),
    Column("answer", JSON),  # while it is running: as much of it as there is
    Column("error_kind", Text, nullable=False),
    Column("error_text", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("owner_pid", BigInteger),  # the process that answers it
    Column("owner_started", Float),
    Column("owner_boot", Text),
    Column("owner_place", Text),  # host, PID namespace and data directory
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Index("ix_question_state_created_at", "state", "created_at"),
)

experiment = Table(
    "experiment",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("status", String(16), nullable=False),  # running, finished, failed, cancelled, stopped
    Column("quick", Boolean, nullable=False),
    Column("seeds", BigInteger, nullable=False),
    Column("definition", JSON, nullable=False),
    Column("request_key", Text, unique=True),
    Column("error_text", Text, nullable=False),
    Column("owner_pid", BigInteger),  # a command line that makes its runs; else the supervisor does
    Column("owner_started", Float),
    Column("owner_boot", Text),
    Column("owner_place", Text),  # host, PID namespace and data directory
    Column("started_by", Text, nullable=False, server_default=text("''")),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("ix_experiment_status", "status"),
)

experiment_run = Table(
    "experiment_run",
    metadata,
    Column("experiment_id", ForeignKey("experiment.id", ondelete="CASCADE"), primary_key=True),
    Column("stage", String(8), primary_key=True),  # tune, final
    Column("arm", String(40), primary_key=True),
    Column("choice", BigInteger, primary_key=True),
    Column("seed", BigInteger, primary_key=True),
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), nullable=False, index=True),
)
