"""A whole training step: ours against TRL's `DistillationTrainer`, on the same work.

    python -m bench.against_trl [--quick] [--pairs 7] [--only "32 x 4, natural"]

First both losses and all gradients are proven equal on one batch of ragged completions: TRL's own
`compute_loss` (prompts padded on the left; the sum over all completion tokens divided by their
number in the whole batch) against our own `update` (`reduction: token_mean`, which is the same).
Nothing is converted. Then steps are timed in turn, one of theirs, one of ours: sampling at
temperature 1 from the whole distribution, teacher, student forward and backward, clipping at norm
1, AdamW, float32, same models, prompts and threads. Theirs runs inside its own `train()`, timed
from the end of ours to the end of its next step, without the activation checkpointing and bfloat16
that are its defaults; ours is the event stream that the product runs. A learning rate of 1e-6 keeps
both students, and so the lengths of what they write, where they started.

"equal" writes exactly 40 tokens in every completion (theirs: min_new_tokens, ours: no id ends);
"natural" stops at the model's end token. "off" stores nothing; "on" logs every step there
(report_to none, no texts, nothing printed), and here stores every rollout with every token's record
and both top-8. Where other work runs beside, OMP_WAIT_POLICY=passive keeps either side's waiting
threads from spinning, and the ratios steady.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from app.worker.models.converted import model_at_hand
from bench.support.endless import EndlessTraining
from opd.config.gguf.smollm import SMOLLM2
from opd.config.run import RunConfig, parse
from opd.data.prompts import PromptSet, load_prompts
from opd.errors import UserError
from opd.models.folders.resolve import resolve, silent
from opd.models.load import context_of
from opd.sampling.sample import NEVER
from opd.training.loading import Callbacks, LoadedRun, load
from opd.training.rollouts import Completion, Writer, sequences, write
from opd.training.step.clock import Clock
from opd.training.trainer import Training
from opd.training.update import update
from opd.types import ModelsEvent, StepEvent
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.write.records import RunWriter

try:
    from trl import DistillationConfig, DistillationTrainer
except ModuleNotFoundError as missing:
    raise SystemExit("bench.against_trl needs TRL: pip install -e '.[bench]'") from missing

NEW_TOKENS = 40
THREADS = torch.get_num_threads()  # as OMP_NUM_THREADS says
BUNDLED = ("bundled/student", "bundled/teacher")


@dataclass(frozen=True)
class Case:
    prompts: int
    group: int
    natural: bool = False
    kept: bool = False
    models: tuple[str, str] = BUNDLED
    size: str = ""

    def __str__(self) -> str:
        lengths = "natural" if self.natural else "equal"
        return (
            f"{self.prompts} x {self.group}{self.size}, {lengths}, {'on' if self.kept else 'off'}"
        )

    def config(self, **changes: Any) -> RunConfig:
        student, teacher = self.models
        data = {
            "student": student,
            "teacher": teacher,
            "steps": 1000,  # never reached: the last step evaluates and saves
            "threads": THREADS,
            "device": "cpu",
            "sampling": {
                "prompts_per_step": self.prompts,
                "group_size": self.group,
                "max_new_tokens": NEW_TOKENS,
            },
            "optimizer": {"learning_rate": 1e-6},
            "evaluation": {"prompts": 1, "temperatures": [0], "keep": 0},
            "records": {"budget_mb": 10_000} if self.kept else {"top_k": 0, "rollouts_per_step": 0},
        }
        return parse(data | changes)


@dataclass
class Times:
    """Seconds and completion tokens a step, step by step."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def add(self, seconds: float, tokens: float) -> None:
        self.seconds.append(seconds)
        self.tokens.append(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, three pairs")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    prove()
    with tempfile.TemporaryDirectory() as folder:
        print(f"\n{THREADS} threads; prompts x completions of each")
        print(f"{'case':28} {'TRL s':>7} {'ours s':>7} {'TRL / ours':>19} {'tokens each':>13}")
        for case in cases(Path(folder), quick=options.quick):
            if options.only in str(case):
                compare(case, 3 if options.quick else options.pairs)


def cases(folder: Path, *, quick: bool) -> Iterator[Case]:
    if quick:
        yield from (Case(8, 4), Case(8, 4, natural=True), Case(16, 1), Case(16, 1, natural=True))
        return
    for group in (4, 1):
        for prompts in (16, 32, 64):
            for natural in (False, True):
                yield Case(prompts, group, natural)
    for natural in (False, True):
        yield Case(128, 1, natural)
        yield Case(32, 4, natural, kept=True)
        yield Case(32, 1, natural, kept=True)
    models = larger(folder)
    yield Case(16, 4, models=models, size=" 8M")
    yield Case(32, 1, models=models, size=" 8M")
    with contextlib.suppress(UserError):  # its package is not there
        smollm2 = model_at_hand(DataDir(folder), SMOLLM2, where="student.model", say=silent)
        yield Case(4, 4, models=(smollm2, smollm2), size=" SmolLM2")
        yield Case(16, 1, models=(smollm2, smollm2), size=" SmolLM2")


def larger(folder: Path) -> tuple[str, str]:
    """A student and a teacher of 8 million matrix parameters, 4,096 ids, at random."""
    bundled = resolve(BUNDLED[0], where="student.model")
    config = Qwen3Config(
        vocab_size=4096,
        hidden_size=320,
        intermediate_size=960,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=64,
        max_position_embeddings=512,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    folders = []
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        Qwen3ForCausalLM(config).save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(bundled).save_pretrained(folder / name)
        folders.append(str(folder / name))
    return folders[0], folders[1]


class Recorder(torch.optim.SGD):
    """Keeps the gradients instead of stepping."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def prove() -> None:
    """Prints the differences of loss and gradient; stops where they are not rounding."""
    objectives: dict[float, Any] = {
        0.0: "forward_kl",
        0.5: {"name": "jsd", "beta": 0.5},
        1.0: "reverse_kl",
    }
    print(
        f"{'beta':>5} {'loss':>10} {'difference':>11} {'largest relative gradient difference':>37}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for beta, objective in objectives.items():
            case = Case(8, 4, natural=True)
            config = case.config(
                objective=objective,
                optimizer={"learning_rate": 1e-6, "max_grad_norm": 1e6, "micro_batch_tokens": 700},
            )
            loaded = load(config, None, Callbacks())
            prompts = _prompts(loaded, config).for_step(1, case.prompts, config.seed)
            written = write(Writer(loaded.pair, config), prompts, step=1, stop=NEVER)
            theirs, their_gradients = _their_gradients(case, Path(folder), written, beta)
            parameters = list(loaded.pair.student.parameters())
            recorder = Recorder(parameters, lr=1.0)
            learner = replace(loaded.learner, optimizer=recorder)
            ours = update(learner, written, Clock(), NEVER).loss
            worst = max(
                float((a - b).norm() / b.norm())
                for a, b in zip(recorder.gradients, their_gradients, strict=True)
            )
            print(f"{beta:5} {ours:10.6f} {abs(ours - theirs):11.1e} {worst:24.1e}")
            if abs(ours - theirs) > 1e-6 or worst > 1e-5:
                raise SystemExit("the two do not train the same thing")


def _their_gradients(
    case: Case, folder: Path, written: list[Completion], beta: float
) -> tuple[float, list[torch.Tensor]]:
    trainer = their_trainer(case, folder, ["unused"], beta=beta)
    whole = sequences(written)
    prompts = [torch.tensor(p) for p in whole.prompts]
    completions = [torch.tensor(c) for c in whole.completions]

    def padded(rows: list[torch.Tensor], value: int, side: str) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=value, padding_side=side
        )

    inputs = {
        "prompt_ids": padded(prompts, trainer.processing_class.pad_token_id, "left"),
        "prompt_mask": padded([torch.ones_like(p) for p in prompts], 0, "left"),
        "completion_ids": padded(completions, trainer.processing_class.pad_token_id, "right"),
        "completion_mask": padded([torch.ones_like(c) for c in completions], 0, "right"),
        "num_items_in_batch": torch.tensor(whole.completion_tokens),
    }
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss.detach()), [p.grad for p in trainer.model.parameters()]


def their_trainer(case: Case, folder: Path, texts: list[str], **changes: Any) -> Any:
    student, teacher = (resolve(m, where="model") for m in case.models)
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": case.prompts * case.group,
        "shuffle_dataset": False,
        "max_completion_length": NEW_TOKENS,
        "generation_kwargs": None if case.natural else {"min_new_tokens": NEW_TOKENS},
        "beta": 1.0,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "logging_strategy": "steps" if case.kept else "no",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32),
        args=DistillationConfig(**settings | changes),
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=AutoTokenizer.from_pretrained(student, padding_side="left"),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def compare(case: Case, pairs: int) -> None:
    ours, theirs = Times(), Times()
    with tempfile.TemporaryDirectory() as folder, our_steps(case, Path(folder)) as steps:
        texts = _texts(case, pairs + 1)
        trainer = their_trainer(case, Path(folder), texts, max_steps=pairs + 1)
        trainer.add_callback(_InTurn(trainer, steps, ours, theirs))
        trainer.train()
    ratios = [a / b for a, b in zip(theirs.seconds[1:], ours.seconds[1:], strict=True)]
    print(
        f"{case!s:28} {statistics.median(theirs.seconds[1:]):7.2f} "
        f"{statistics.median(ours.seconds[1:]):7.2f} {statistics.median(ratios):7.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) "
        f"{statistics.mean(theirs.tokens[1:]):6.1f} {statistics.mean(ours.tokens[1:]):6.1f}",
        flush=True,
    )


class _InTurn(TrainerCallback):  # type: ignore[misc]
    """After each of their steps, one of ours. The first of both warms up."""

    def __init__(
        self, trainer: Any, steps: Iterator[StepEvent], ours: Times, theirs: Times
    ) -> None:
        self._trainer, self._steps, self._ours, self._theirs = trainer, steps, ours, theirs
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        rows = args.per_device_train_batch_size
        mean = self._trainer._metrics["train"]["completions/mean_length"][-1]
        self._theirs.add(time.perf_counter() - self._began, mean)
        start = time.perf_counter()
        event = next(self._steps)
        self._ours.add(time.perf_counter() - start, event.tokens / rows)
        self._began = time.perf_counter()


@contextlib.contextmanager
def our_steps(case: Case, folder: Path) -> Iterator[Iterator[StepEvent]]:
    """The run's steps as they come, each stored before it is handed out where `kept` says so."""
    config = case.config()
    training = (Training if case.natural else EndlessTraining)(config, folder)
    engine = open_database(folder)
    run_id = jobs.create_run(engine, config)
    attempt = jobs.claim(engine, run_id, "cpu", jobs.Owner(1, 0.0, ""))
    assert attempt is not None
    writer = RunWriter(engine, run_id, attempt)

    def steps() -> Iterator[StepEvent]:
        for event in training.events():
            if isinstance(event, ModelsEvent):
                writer.models(event, {})
            if isinstance(event, StepEvent):
                if case.kept:
                    writer.step(event, lambda ids: training.vocabulary(sorted(ids)))
                yield event

    try:
        yield steps()
    finally:
        engine.dispose()


def _texts(case: Case, steps: int) -> list[str]:
    """The prompts of our steps in their order, each repeated for its group."""
    config = case.config()
    loaded = load(config, None, Callbacks())
    every_prompt = _prompts(loaded, config)
    prompts = [
        p for s in range(steps) for p in every_prompt.for_step(s + 1, case.prompts, config.seed)
    ]
    ids = loaded.pair.tokenizer([p.text for p in prompts])["input_ids"]
    assert ids == [list(p.ids) for p in prompts], "the two would read different prompts"
    return [p.text for p in prompts for _ in range(case.group)]


def _prompts(loaded: LoadedRun, config: RunConfig) -> PromptSet:
    return load_prompts(config, loaded.pair.tokenizer, context_of(loaded.pair.student))


if __name__ == "__main__":
    main()
