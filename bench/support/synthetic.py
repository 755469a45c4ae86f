"""Token records that look like training: mostly agreement, sharp disagreement at some tokens.

Student and teacher are distributions over eight alternatives and a tail, so that probabilities,
entropies, ranks and the exact KL of a record fit each other.
"""

import re

import numpy as np

from opd.types import Rollout, TokenRecord, TopK

ALTERNATIVES = 8
EOS = 0
SENTENCES = (
    "First, I count what {name} has at the start: {a} apples and {b} pears.",
    "That makes {a} + {b} = {c} pieces of fruit in total.",
    "However, {name} gives away half of them, so {c} / 2 remain.",
    "Wait, the question asks for the number per box, not the total.",
    "Therefore each of the {b} boxes holds {a} items, and nothing is left over.",
    "Let me check the result again: {c} - {b} = {a}, which agrees.",
    "def total(prices):\n    return sum(price * 1.19 for price in prices)\n",
    "So the answer should be {c}.\n",
    "Die Summe der Zahlen ist {c}, also ungefähr {a} pro Kopf.",
    "答えは {c} です。\n",
    "The café was naïve about its 🎉 budget: {a} € became {b} €.",
)
NAMES = ("Anna", "Boris", "Chidi", "Dolores")
PROMPTS = (
    "{name} has {a} apples and {b} pears and packs them into boxes. How many are in each box?",
    "A shop sells {a} lamps on Monday and {b} on Tuesday. How many did it sell in all?",
    "Write a function that adds the prices of a basket, with 19% tax on each.",
)
HOSTILE = (
    "<img src=x onerror=window.__canary=1>",
    "${window.__canary=1}",
    "{{constructor.constructor('window.__canary=1')()}}",
    "</script><script>window.__canary=1</script>",
    "\u202ereversed\u202c",
    "zero\u200bwidth\u2066",
    "javascript:window.__canary=1",
    "\x00\x1b[31m\x07",
    "'\"><svg/onload=window.__canary=1>",
)
PIECE = re.compile(r"<[^>]*>| ?[A-Za-z]{1,5}|[A-Za-z]{1,6}| ?\d| {2,}|\n| ?[^\sA-Za-z\d]| ")


class SyntheticVocabulary:
    """Word pieces with their ids; characters outside ASCII are split into bytes."""

    def __init__(self) -> None:
        self.ids: dict[bytes, int] = {b"<|end|>": EOS, b"<think>": 1, b"</think>": 2}
        for text in HOSTILE:
            self._id(text.encode())
        for sentence in (*SENTENCES, *PROMPTS, *NAMES, "0123456789"):
            self.encode(sentence)

    def encode(self, text: str) -> list[int]:
        token_ids = []
        for piece in PIECE.findall(text):
            data = piece.encode()
            parts = [data] if len(data) == len(piece) or len(data) == 2 else _halves(data)
            token_ids += [self._id(part) for part in parts]
        return token_ids

    def lookup(self, ids: object) -> dict[int, tuple[bytes, bool]]:
        named = {int(i) for i in ids}  # type: ignore[attr-defined]
        return {i: (data, i < 3) for data, i in self.ids.items() if i in named}

    def text(self, ids: list[int]) -> str:
        by_id = {i: data for data, i in self.ids.items()}
        return b"".join(by_id[i] for i in ids if i != EOS).decode("utf-8", "replace")

    def _id(self, data: bytes) -> int:
        return self.ids.setdefault(data, len(self.ids))


def _halves(data: bytes) -> list[bytes]:
    return [data[:-2], data[-2:]]


class RolloutMaker:
    """Makes rollouts of any length from one seed."""

    def __init__(self, seed: int) -> None:
        self.vocabulary = SyntheticVocabulary()
        self.random = np.random.default_rng(seed)

    def sentence(self, templates: tuple[str, ...]) -> str:
        a, b = self.random.integers(2, 40, 2)
        template = templates[self.random.integers(len(templates))]
        name = NAMES[self.random.integers(len(NAMES))]
        return template.format(name=name, a=a, b=b, c=a + b)

    def completion(self, length: int) -> list[int]:
        """Exactly `length` ids, closed by the end token."""
        ids = [1]
        while len(ids) < length:
            ids += self.vocabulary.encode(" " + self.sentence(SENTENCES))
        return [*ids[: length - 1], EOS]

    def rollout(self, length: int, *, step: int, group: int, sample: int, fade: float) -> Rollout:
        """`fade` from 1 (start of training) to 0 scales the disagreement."""
        return self.of_ids(
            self.completion(length), step=step, group_and_sample=(group, sample), fade=fade
        )

    def hostile(self, step: int) -> Rollout:
        """A rollout whose prompt and tokens try to get out of the page."""
        ids: list[int] = []
        for text in HOSTILE:
            ids += [self.vocabulary.ids[text.encode()], *self.vocabulary.encode(" so then\n")]
        return self.of_ids(
            [*ids, EOS], step=step, group_and_sample=(999, 0), fade=1.0, prompt=HOSTILE[0]
        )

    def of_ids(
        self,
        ids: list[int],
        *,
        step: int,
        group_and_sample: tuple[int, int],
        fade: float,
        prompt: str = "",
    ) -> Rollout:
        question = prompt or self.sentence(PROMPTS)
        right = bool(self.random.random() > 0.25 + 0.4 * fade)
        return Rollout(
            step=step,
            kind="train",
            group=group_and_sample[0],
            sample=group_and_sample[1],
            prompt=question,
            prompt_ids=np.array(self.vocabulary.encode(question) or [3], dtype=np.int64),
            completion=self.vocabulary.text(ids),
            finish_reason="stop" if self.random.random() > 0.1 else "length",
            temperature=1.0,
            record=self.record(np.array(ids, dtype=np.int64), fade),
            reward=float(right),
            answer=str(len(ids)),
        )

    def record(self, ids: np.ndarray, fade: float) -> TokenRecord:
        student, teacher, choices = self._distributions(ids, fade)
        log_p, log_q = _log_softmax(student), _log_softmax(teacher)
        p = np.exp(log_p)
        first, q_first = log_p[:, 0], log_q[:, 0]
        advantages = (q_first - first).astype(np.float32)
        return TokenRecord(
            completion_ids=ids,
            sampler_logprobs=_single(first + self.random.normal(0, 0.002, len(ids))),
            student_logprobs=_single(first),
            teacher_logprobs=_single(q_first),
            reverse_kl=_single(np.maximum((p * (log_p - log_q)).sum(1), 0)),
            student_entropy=_single(-(p * log_p).sum(1)),
            teacher_entropy=_single(-(np.exp(log_q) * log_q).sum(1)),
            teacher_rank=(log_q[:, :-1] > q_first[:, None]).sum(1).astype(np.int64),
            advantages=advantages,
            mask=np.ones(len(ids), dtype=np.float32),
            student_topk=_top(choices, log_p, log_q),
            teacher_topk=_top(choices, log_q, log_p),
        )

    def _distributions(
        self, ids: np.ndarray, fade: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits of both over the alternatives and a tail; column 0 is the sampled token."""
        n, vocabulary_size = len(ids), len(self.vocabulary.ids)
        offsets = np.sort(self.random.integers(1, vocabulary_size - 8, (n, ALTERNATIVES)), axis=1)
        offsets += np.arange(ALTERNATIVES)  # distinct
        choices = (ids[:, None] + offsets) % vocabulary_size
        choices[:, 0] = ids
        student = self.random.normal(0, 1.4, (n, ALTERNATIVES + 1))
        student[:, 0] += 4.5
        student[:, -1] -= 1.5
        teacher = student + self.random.normal(0, 0.25 + 0.2 * fade, student.shape)
        surprised = self.random.random(n) < 0.02 + 0.09 * fade
        size = self.random.gamma(2.0, 1.6, n) * surprised * (0.4 + 0.6 * fade)
        teacher[:, 0] -= size
        teacher[:, 1] += size
        return student, teacher, choices


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits.max(1, keepdims=True)
    normalised: np.ndarray = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return normalised


def _top(choices: np.ndarray, logprobs: np.ndarray, other_logprobs: np.ndarray) -> TopK:
    order = np.argsort(-logprobs[:, :-1], axis=1)
    rows = np.arange(len(logprobs))[:, None]
    return TopK(
        ids=choices[rows, order],
        logprobs=_single(logprobs[rows, order]),
        other_logprobs=_single(other_logprobs[rows, order]),
        tail_mass=_single(np.exp(logprobs[:, -1])),
    )
