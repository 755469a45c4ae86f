"""Puts every causal model of transformers through `checks` and writes docs/models.md and
opd/models/tried.json.

    make test-models                     all of them: ten minutes on an idle core
    make test-models MODELS='qwen|glm'   those whose model type matches; other rows stay

Exits with 1 where a model neither works nor is refused by name.
"""

import argparse
import re
import sys
import time
import warnings

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging as transformers_logging

from bench.causal_models.checks import ModelCheck, check
from bench.causal_models.table import ModelRow, causal_classes, read_rows, write
from opd.errors import one_line
from opd.models.routes import CANNOT
from tests.support.tiny_models import tokenizer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="", help="model types, a regular expression")
    pattern = parser.parse_args().pattern
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    rows = {} if not pattern else {row.model_type: row for row in read_rows()}
    for model_type, name in causal_classes().items():
        if re.search(pattern, model_type):
            start = time.perf_counter()
            rows[model_type] = ModelRow.of(name, model_type, _checked(model_type))
            print(f"{rows[model_type].line()} {time.perf_counter() - start:.1f} s", flush=True)
            ordered = [rows[m] for m in causal_classes() if m in rows]
            write(ordered)
    wrong = [row.model_type for row in rows.values() if row.outcome == "WRONG"]
    print(f"{len(rows)} model types, {len(wrong)} wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


def _checked(model_type: str) -> ModelCheck:
    try:
        return check(model_type, tokenizer())
    except (*CANNOT, ImportError, StrictDataclassError) as error:
        return ModelCheck("–", {f"{type(error).__name__}: {one_line(error, 200)}": 0.0})


if __name__ == "__main__":
    sys.exit(main())
