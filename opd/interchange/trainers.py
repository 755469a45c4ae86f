"""Dumps of other trainers as rows of token records, recognised by the fields of their lines.

SHAPES has what is taken, REFUSED what cannot be: those lack token ids, or where completions start.

Sources: prime-rl with verifiers (verifiers/v1/graph.py and episode.py), NeMo-RL
(nemo_rl/algorithms/grpo.py), SkyRL (skyrl/train/utils/trainer_utils.py), verl
(verl/trainer/ppo/ray_trainer.py), ms-swift (swift/rlhf_trainers/grpo_trainer.py), RLLoggingBoard.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from opd.errors import ErrorKind, UserError
from opd.interchange.jsonl import check_ids, finite
from opd.interchange.optional_fields import shown
from opd.interchange.trl import NO_REWARD, Chat, Completions, message, messages

Row = dict[str, Any]
PAD = "<PAD>"
NUMBERED = re.compile(r"(?:train_data_step|global_step_|step_)(\d{1,9})")  # in names of files
SCATTERED = {  # of prime-rl's nodes, one value per sampled token → ours
    "logprobs": "sampler_logprobs",
    "reference_logprobs": "teacher_logprobs",
    "advantages": "advantages",
}


@dataclass(frozen=True)
class Dump:
    """A file's name, what renders its chats, and the numbers that its groups got so far."""

    path: str
    chat: Chat
    groups: dict[Any, int] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """The step that the file's name or its folder's tells."""
        names = NUMBERED.findall("/".join(Path(self.path).parts[-4:]))
        return int(names[-1]) if names else None

    def group(self, key: Any) -> int:
        return self.groups.setdefault(key, len(self.groups))

    def rows(
        self, lines: Iterator[tuple[int, Row]], shape: "DumpShape"
    ) -> Iterator[tuple[int, Row]]:
        """A row for each completion, under its line's number. Raises UserError."""
        for number, data in lines:
            line = DumpLine(f"{self.path}, line {number}", self)
            if not shape.fits(data):
                name = min(shape.keys - data.keys(), default=min(shape.keys))
                line.fail(name, f"is missing or of another form; the first line is of {shape.name}")
            for row in shape.read(data, line):
                yield number, {name: value for name, value in row.items() if value is not None}


@dataclass(frozen=True)
class DumpLine:
    where: str
    dump: Dump

    def fail(self, name: str, text: str) -> NoReturn:
        raise UserError(text, where=f"{self.where}, {name}", kind=ErrorKind.BAD_DATA)

    def list_of(self, data: Mapping[str, Any], name: str, length: int | None = None) -> list[Any]:
        values = data.get(name.rpartition(".")[2])
        if not isinstance(values, list):
            self.fail(name, f"must be a list (got {shown(values)})")
        if length is not None and len(values) != length:
            self.fail(name, f"has {len(values)} entries for {length} tokens")
        return values

    def prompt(self, value: Any, name: str) -> Row:
        """The prompt's text, or a chat's as the dump renders it."""
        if isinstance(value, str):
            return {"prompt": value, "group": self.dump.group(value)}
        text, ids = self.dump.chat(messages(value, f"{self.where}, {name}"))
        return {"prompt": text, "prompt_token_ids": ids, "group": self.dump.group(text)}

    def split(self, ids: list[Any], mask: list[Any], name: str) -> tuple[Row, int]:
        """Prompt, completion and mask; the completion starts at the first token that counts."""
        check_ids("token_ids", ids, self.fail)
        if any(value not in (0, 1) for value in mask):
            self.fail(name, "must hold 0 and 1")
        if 1 not in mask:
            self.fail(name, "marks no sampled token, so the line has no completion")
        start = mask.index(1)
        if start == 0:
            self.fail(name, "starts with a sampled token: the ids of the prompt are missing")
        row = {"prompt_token_ids": ids[:start], "completion_token_ids": ids[start:]}
        return row | {"mask": [int(value) for value in mask[start:]]}, start


def _episode(data: Row, line: DumpLine) -> Iterator[Row]:
    """prime-rl since August 2026: the traces of one episode."""
    key = data.get("group")
    for i, trace in enumerate(line.list_of(data, "traces")):
        if not isinstance(trace, dict):
            line.fail(f"traces[{i}]", f"must be an object (got {shown(trace)})")
        step = trace.get("run") or data.get("run")
        group = line.dump.group(str(key)) if key is not None else None
        for row in _branches(trace | {"run": step}, line, f"traces[{i}]."):
            yield row | {"group": group}


def _trace(data: Row, line: DumpLine) -> Iterator[Row]:
    return _branches(data, line, "")


def _branches(trace: Row, line: DumpLine, name: str) -> Iterator[Row]:
    """A row for every path from the root of the graph of messages to a leaf."""
    nodes = line.list_of(trace, f"{name}nodes")
    for i, node in enumerate(nodes):
        parent = node.get("parent") if isinstance(node, dict) else -1
        if parent is not None and (type(parent) is not int or not 0 <= parent < i):
            line.fail(f"{name}nodes[{i}].parent", "must be null or the index of an earlier node")
    parents = {node["parent"] for node in nodes}
    for leaf in (i for i in range(len(nodes)) if i not in parents):
        path = [leaf]
        while (parent := nodes[path[0]]["parent"]) is not None:
            path.insert(0, parent)
        yield _facts(trace) | _joined([(f"{name}nodes[{i}].", nodes[i]) for i in path], line)


def _joined(nodes: Sequence[tuple[str, Row]], line: DumpLine) -> Row:
    """The tokens of a path end to end. What is not given of a token stays unknown (null)."""
    ids: list[Any] = []
    mask: list[Any] = []
    columns: dict[str, list[Any]] = {name: [] for name in SCATTERED}
    unknown: set[str] = set()
    turns: list[tuple[bool, Mapping[str, str]]] = []
    for name, node in nodes:
        part = line.list_of(node, f"{name}token_ids")
        sampled = line.list_of(node, f"{name}mask", len(part))
        ids, mask = [*ids, *part], [*mask, *sampled]
        for column, values in columns.items():
            given = node.get(column)
            if given is None and 1 in sampled:
                unknown.add(column)
            values += _scattered(given, sampled, line, name + column)
        turns.append((1 in mask, message(node.get("message"), f"{line.where}, {name}message")))
    row, start = line.split(ids, mask, f"{nodes[0][0]}mask")
    row |= {
        SCATTERED[column]: values[start:]
        for column, values in columns.items()
        if column not in unknown
    }
    for side, after in (("prompt", False), ("completion", True)):
        said = [turn for sampled, turn in turns if sampled == after]
        lines = [f"{turn['role']}: {turn['content']}" for turn in said]
        row[side] = said[0]["content"] if len(said) == 1 else "\n".join(lines)
    return row


def _scattered(given: Any, mask: list[Any], line: DumpLine, name: str) -> list[Any]:
    """One value per token: that of a sampled one, null for the others."""
    sampled = sum(value == 1 for value in mask)
    if given is None:
        return [None] * len(mask)
    if not isinstance(given, list) or len(given) not in (sampled, len(mask)):
        count = len(given) if isinstance(given, list) else "no"
        line.fail(name, f"has {count} entries for {sampled} sampled tokens")
    if len(given) == len(mask):
        return [value if on == 1 else None for value, on in zip(given, mask, strict=True)]
    values = iter(given)
    return [next(values) if on == 1 else None for on in mask]


def _facts(trace: Row) -> Row:
    """Step, answer and reward; several rewards have weights that the trace does not tell."""
    run, task, rewards = (trace.get(name) or {} for name in ("run", "task", "rewards"))
    data = task.get("data") if isinstance(task, dict) else None
    answer = data.get("answer") if isinstance(data, dict) else None
    one = list(rewards.values()) if isinstance(rewards, dict) else []
    return {
        "step": run.get("step") if isinstance(run, dict) else None,
        "answer": answer if isinstance(answer, str) else None,
        "reward": trace.get("reward", one[0] if len(one) == 1 else None),
    }


def _nemo(data: Row, line: DumpLine) -> Iterator[Row]:
    """NeMo-RL's GRPO: one sample, or the columns of a batch."""
    ids = line.list_of(data, "token_ids")
    if not ids or not isinstance(ids[0], list):
        yield _nemo_sample(data, line)
        return
    names = [name for name, values in data.items() if isinstance(values, list)]
    for name in names:
        if len(data[name]) != len(ids):
            line.fail(name, f"has {len(data[name])} entries for {len(ids)} samples")
    for i in range(len(ids)):
        yield _nemo_sample(data | {name: data[name][i] for name in names}, line)


def _nemo_sample(data: Row, line: DumpLine) -> Row:
    padded = line.list_of(data, "token_ids")
    length = data.get("input_lengths", len(padded))
    if type(length) is not int or not 1 <= length <= len(padded):
        line.fail("input_lengths", f"must be 1 to {len(padded)} (got {shown(length)})")
    mask = line.list_of(data, "token_loss_mask", len(padded))[:length]
    row, start = line.split(padded[:length], mask, "token_loss_mask")
    for name, ours in (
        ("generation_logprobs", "sampler_logprobs"),
        ("prev_logprobs", "student_logprobs"),
        ("advantages", "advantages"),
    ):
        if isinstance(data.get(name), list):
            values = line.list_of(data, name, len(padded))[start:length]
            row[ours] = [v if on else None for v, on in zip(values, row["mask"], strict=True)]
    if data.get("sample_loss_mask") == 0:  # the sample was not trained on
        row["mask"] = [0] * len(row["mask"])
    group = line.dump.group(tuple(row["prompt_token_ids"]))
    return row | {"step": line.dump.step, "group": group, "reward": data.get("rewards")}


def _skyrl(data: Row, line: DumpLine) -> Iterator[Row]:
    """SkyRL's evaluations; a list of scores has one per token, whose sum is the reward."""
    yield line.prompt(data["input_prompt"], "input_prompt") | {
        "completion": data["output_response"],
        "reward": _total(data.get("score"), line),
        "finish_reason": data.get("stop_reason"),
        "step": line.dump.step,
    }


def _total(score: Any, line: DumpLine) -> Any:
    if not isinstance(score, list):
        return score
    if not all(finite(value) for value in score):
        line.fail("score", f"must hold finite numbers (got {shown(score)})")
    return float(sum(score)) if score else None


def _verl(data: Row, line: DumpLine) -> Iterator[Row]:
    answer = data.get("gts")
    yield line.prompt(data["input"], "input") | {
        "completion": data["output"],
        "answer": answer if isinstance(answer, str) else None,
        "reward": data["score"],
        "step": data.get("step", line.dump.step),
    }


def _swift(data: Row, line: DumpLine) -> Iterator[Row]:
    """ms-swift: a line is a table, a list for each column, as TRL's."""
    count = len(line.list_of(data, "completion"))
    columns = {name: line.list_of(data, name) for name in data}
    for name, values in columns.items():
        if len(values) != count:
            line.fail(name, f"has {len(values)} entries for {count} completions")
    steps = [int(s) if isinstance(s, str) and s.isdecimal() else s for s in columns["step"]]
    numeric = [
        name
        for name, values in columns.items()
        if name not in NO_REWARD and values and all(finite(v) or v is None for v in values)
    ]
    table = Completions(line.where, tuple(numeric), line.dump.chat, line.dump.groups)
    rows = (
        {name: values[i] for name, values in (columns | {"step": steps}).items()}
        for i in range(count)
    )
    yield from (row for _, row in table.rows(enumerate(rows, 1)))


def _board(data: Row, line: DumpLine) -> Iterator[Row]:
    """RLLoggingBoard: tokens as text; the reference model stands as the teacher."""
    tokens = line.list_of(data, "response_tokens")
    count = len(line.list_of(data, "logprobs"))
    if len(tokens) == count + 1 and tokens[-1] == PAD:
        tokens = tokens[:-1]
    if len(tokens) != count:
        line.fail("logprobs", f"has {count} entries for {len(tokens)} tokens")
    yield line.prompt(data.get("prompt"), "prompt") | {
        "completion": data.get("response"),
        "completion_tokens": tokens,
        "student_logprobs": data["logprobs"],
        "teacher_logprobs": data.get("ref_logprobs"),
        "reward": data.get("reward"),
        "step": data.get("step"),
    }


@dataclass(frozen=True)
class DumpShape:
    name: str
    keys: frozenset[str]
    read: Callable[[Row, DumpLine], Iterator[Row]]
    lists: bool = False  # the fields hold columns

    def fits(self, data: Mapping[str, Any]) -> bool:
        return data.keys() >= self.keys and not (
            self.lists and not all(isinstance(data[name], list) for name in self.keys)
        )


SHAPES = (
    DumpShape("prime-rl episodes", frozenset({"traces"}), _episode),
    DumpShape("prime-rl traces", frozenset({"nodes", "task"}), _trace),
    DumpShape("NeMo-RL", frozenset({"token_ids", "token_loss_mask"}), _nemo),
    DumpShape("SkyRL", frozenset({"input_prompt", "output_response"}), _skyrl),
    DumpShape("verl", frozenset({"input", "output", "score"}), _verl),
    DumpShape("ms-swift", frozenset({"step", "prompt", "completion"}), _swift, lists=True),
    DumpShape("RLLoggingBoard", frozenset({"response_tokens", "logprobs"}), _board),
)
REFUSED = (  # fields → what such a line is, and what it lacks
    (
        {"logprob_token_ids"},
        "is a response of TRL's teacher server, which has no ids of prompt and completion: import "
        "vLLM's prompt_logprobs, or score the text with opd score",
    ),
    (
        {"logprobs_b64"},
        "is a response of TRL's teacher server, which has no ids of prompt and completion: import "
        "vLLM's prompt_logprobs, or score the text with opd score",
    ),
    (
        {"content", "input_lengths"},
        "is NeMo-RL's log of a distillation: one text without token ids, which does not tell where "
        "the completion starts; GRPO's log has token_ids and token_loss_mask",
    ),
    (
        {"content", "rewards"},
        "is NeMo-RL's log of a validation: one text without token ids, which does not tell where "
        "the completion starts",
    ),
    (
        {"traj_idx", "steps"},
        "is a summary of rollouts by tinker-cookbook, which has lengths and rewards but no tokens",
    ),
)


def shape_of(data: Mapping[str, Any]) -> DumpShape | None:
    """The shape of a line, None where it is of none."""
    return next((shape for shape in SHAPES if shape.fits(data)), None)


def refuse(data: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a line of a kind that cannot be imported."""
    for keys, text in REFUSED:
        if data.keys() >= keys:
            raise UserError(text, where=where, kind=ErrorKind.BAD_DATA)
