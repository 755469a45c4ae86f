"""Modules that a forked job needs and that take long to import."""

SLOW = ["alembic.runtime.migration", "storage.migrate", "transformers.models.qwen3.modeling_qwen3"]
