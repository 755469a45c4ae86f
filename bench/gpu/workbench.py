"""What every part measures with: models of real shapes from random weights, time, memory, figures.

Nothing is downloaded: the weights are random, the tokenizer has one id a byte and is filled up to
the vocabulary's size with words that no text of the benchmark has.
"""

import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from opd.config.run import RunConfig, parse
from opd.doctor.memory import estimate

GIB = 2**30
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEAD_SCALE = 4.0  # logits with a standard deviation of some 2.5, where plain ones have 0.6
QWEN3: Mapping[str, Mapping[str, int]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    "0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "4B": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}


@dataclass(frozen=True)
class Work:
    """One step's: `prompts` × `group` completions of `new` tokens each."""

    prompts: int
    group: int
    new: int

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def tokens(self) -> int:
        return self.rows * self.new


@dataclass(frozen=True)
class Figures:
    """One line of a part's table; a value of several measurements is a `spread`."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Workbench:
    """Where the parts run: a device, full or small size, and the folder with the models."""

    device: torch.device
    small: bool
    folder: Path
    times: int = 3  # measurements of what takes seconds, after one that warms up

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    @property
    def work(self) -> Work:
        return Work(2, 2, 6) if self.small else Work(16, 4, 512)

    @property
    def dtype(self) -> str:
        """That of the run; a processor takes ten times as long for tiny bfloat16 products."""
        return "float32" if self.small else "bfloat16"

    @property
    def vocab(self) -> int:
        return 600 if self.small else 151_936

    @property
    def student(self) -> str:
        return self.model("tiny" if self.small else "0.6B", seed=0)

    @property
    def teacher(self) -> str:
        return self.model("tiny" if self.small else "4B", seed=1)

    def model(self, size: str, *, seed: int) -> str:
        """The folder of a random model of this size in bfloat16, made where it is not there yet."""
        folder = self.folder / f"{size}-{self.vocab}-{seed}"
        if folder.exists():
            return str(folder)
        config = Qwen3Config(
            **QWEN3[size],
            vocab_size=self.vocab,
            max_position_embeddings=40_960,
            eos_token_id=SPECIAL.index("<|im_end|>"),
            pad_token_id=0,
            tie_word_embeddings=True,
        )
        torch.manual_seed(seed)
        with torch.device(self.device):
            model = Qwen3ForCausalLM(config).to(torch.bfloat16)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(HEAD_SCALE)
        aside = folder.with_name(f"{folder.name}.part")
        model.save_pretrained(aside)
        tokenizer(self.vocab).save_pretrained(aside)
        aside.rename(folder)
        return str(folder)

    def texts(self, count: int = 64) -> list[str]:
        """Prompts of 79 tokens, or 15 where everything is small."""
        draw = random.Random(0)
        numbers = 3 if self.small else 25
        return [
            " ".join(str(draw.randint(10, 99)) for _ in range(numbers)) + " = ?"
            for _ in range(count)
        ]

    def config(self, work: Work | None = None, **changes: Any) -> RunConfig:
        """A run on this device whose steps never end; sections of `changes` are merged into it."""
        work = work or self.work
        prompts = self.folder / "prompts.jsonl"
        lines = [json.dumps({"prompt": text, "answer": "7"}) for text in self.texts()]
        prompts.write_text("\n".join(lines), encoding="utf-8")
        data: dict[str, Any] = {
            "student": {"model": self.student, "dtype": self.dtype},
            "teacher": {"model": self.teacher, "dtype": self.dtype},
            "prompts": {"source": str(prompts)},
            "steps": 100_000,
            "device": str(self.device),
            "sampling": {
                "prompts_per_step": work.prompts,
                "group_size": work.group,
                "max_new_tokens": work.new,
                "batch_size": work.rows,
            },
            "optimizer": {"learning_rate": 1e-6, "compile": False},
            "evaluation": {"prompts": 1, "temperatures": [0], "keep": 0},
            "records": {"top_k": 0, "rollouts_per_step": 0},
        }
        for section, values in changes.items():
            merged = isinstance(values, dict) and isinstance(data.get(section), dict)
            data[section] = data[section] | values if merged else values
        return parse(data)

    def plan(self, config: RunConfig) -> float:
        """Bytes that the doctor expects on the device."""
        longest = max(len(text) for text in self.texts())  # a byte is a token
        return estimate(config, prompt_tokens=longest).device

    def wait(self) -> None:
        """For the device to be done."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def start_peak(self) -> None:
        """Gives back what nobody holds, and starts to watch the peak of what is held."""
        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float | None:
        """Bytes of tensors at their most since `start_peak`; None on a processor."""
        return float(torch.cuda.max_memory_allocated(self.device)) if self.on_card else None

    def memory(self, config: RunConfig) -> dict[str, Any]:
        """The peak, and beside it the doctor's plan where micro-batches are not chosen by what
        memory is free."""
        peak, plan = self.peak(), self.plan(config)
        values: dict[str, Any] = {"peak GiB": in_gib(peak)}
        if peak is not None:
            values["reserved GiB"] = in_gib(float(torch.cuda.max_memory_reserved(self.device)))
        if config.optimizer.micro_batch_tokens is not None:
            values["plan GiB"] = in_gib(plan)
            if peak is not None:
                values["plan / peak"] = round(plan / peak, 3)
                values["within 15%"] = abs(plan / peak - 1) <= 0.15
        return values

    def seconds(self, call: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def repeated(
        self, call: Callable[[], object], *, times: int | None = None, budget: float = 60.0
    ) -> list[float]:
        """Seconds of `times` calls (the workbench's) after one that warms up; of fewer, but one at
        least, where all of them took `budget` seconds."""
        times = times or self.times
        spent = [self.seconds(call)]
        while len(spent) < 2 or (len(spent) <= times and sum(spent) < budget):
            spent.append(self.seconds(call))
        return spent[1:]

    def environment(self) -> dict[str, Any]:
        name = platform.processor() or platform.machine()
        if self.on_card:
            name = torch.cuda.get_device_name(self.device)
        return {
            "device": name,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "small": self.small,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least, most and number of some measurements."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def rates(amount: float, seconds: Sequence[float]) -> dict[str, float]:
    return spread([amount / s for s in seconds])


def in_gib(bytes_held: float | None) -> float | None:
    return None if bytes_held is None else round(bytes_held / GIB, 3)


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """One id a byte behind the special tokens; the rest of the vocabulary are w0, w1, …"""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"w{i}" for i in range(vocab - len(words))]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
