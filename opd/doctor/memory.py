"""How much memory a run needs, part by part, before anything is loaded. Free of torch.

An estimate: allocators keep more than is asked for, and a GPU's context takes about half a
gigabyte besides. Parts that never exist together are counted by phase, and the largest phase
decides. Of a run of several processes it is what each of them needs.
"""

from dataclasses import dataclass, replace

from opd.config.models import RouteConfig
from opd.config.run import RunConfig
from opd.doctor.memory_parts import Estimate, MemoryPart, Phase
from opd.models.architecture import Architecture, architecture_of
from opd.sampling.vllm.share import ServerLoad, share_of

BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
QUANTIZED_EXTRA = {"none": 0.0, "int8": 0.0, "int4": 4 / 64}  # a scale for each 64
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2.0 + 2 * 4 / 256}  # and two scales a block of 256
CHUNK_VALUES = 2**24  # as in opd.models.forward, which loads torch; a test compares them
CHUNK_COPIES = 6  # logits, log-probabilities, their gradients, the teacher's of both
ASSUMED_PROMPT = 256  # tokens, where nothing says how long prompts are
# Bytes that a token's backward pass keeps in a layer, for each unit of (feed-forward width, width
# of queries and of keys with values, hidden width), by what computes and whether only an adapter
# is trained. Measured with saved-tensor hooks on Qwen3; a test measures again.
KEPT = {
    ("float32", False): (16.0, 16.0, 24.0),
    ("float32", True): (16.0, 12.0, 16.0),
    ("bfloat16", False): (8.0, 10.0, 16.0),
    ("bfloat16", True): (8.0, 8.0, 12.0),
}


@dataclass(frozen=True)
class TokenLoad:
    """How many tokens are in hand at once. `row`: the longest prompt and completion."""

    row: int
    micro_batch: int  # max(row, min(micro_batch_tokens, all rows of a step))
    decoded: int  # rows decoded together
    step: int  # all tokens of a step

    @classmethod
    def of(cls, config: RunConfig, prompt: int | None) -> "TokenLoad":
        sampling = config.sampling
        longest = prompt or config.prompts.max_prompt_tokens or ASSUMED_PROMPT
        row = longest + sampling.max_new_tokens
        rows = sampling.prompts_per_step * sampling.group_size
        micro = max(row, min(config.optimizer.tokens_per_pass, rows * row))
        return cls(row, micro, min(sampling.batch_size, rows), rows * row)


def estimate(
    config: RunConfig, *, prompt_tokens: int | None = None, trained: int | None = None
) -> Estimate:
    """Adds up the parts of a run; `prompt_tokens` is the longest prompt, `trained` the number of
    the student's trained parameters, where they are known."""
    load = TokenLoad.of(config, prompt_tokens)
    student = architecture_of(config.student.model, where="student.model")
    parts: list[MemoryPart] = []
    unknown = []
    if student is not None and config.student.lora is not None:
        student = replace(student, adapted=trained)
        if student.experts and trained is None:
            unknown.append("student.lora")
    if student is None:
        unknown.append("student.model")
    else:
        parts += _student(config, student, load) + _put_together(config, student)
        parts += _sampling(config, student, load)
    seen: set[tuple[str, str, str]] = set()
    for name, teacher in config.teachers.items():
        key = (teacher.model, teacher.dtype, teacher.quantize)
        if teacher.kind != "model":
            parts += [] if student is None else _of_student(config, name, teacher.kind, student)
        elif key not in seen:
            seen.add(key)
            model = architecture_of(teacher.model, where=f"{name}.model")
            if model is None:
                unknown.append(f"{name}.model")
            else:
                cut = Cut.of(config, model)
                parts += _teacher(name, teacher, cut, load, writes=config.teacher_writes)
    if student is not None and config.objective.reference_kl:
        parts += _of_student(config, "reference", "self", student)
    return Estimate(parts, unknown)


@dataclass(frozen=True)
class Cut:
    """How many of a model's numbers one process holds, and how that is written.

    Layers are cut among `share` processes; what stands around them is whole in each.
    """

    model: Architecture
    share: int

    @classmethod
    def of(cls, config: RunConfig, model: Architecture) -> "Cut":
        return cls(model, config.devices if config.sharding == "full" else 1)

    @property
    def inside(self) -> float:
        """Numbers of all layers."""
        ends = 1 if self.model.tied else 2
        return self.model.parameters - ends * self.model.embedding - self.model.hidden

    @property
    def layer(self) -> float:
        return self.inside / self.model.layers

    def numbers(self, count: float) -> tuple[float, str]:
        """Of so many, all of the model's or an adapter's, which is in its layers."""
        if self.share == 1:
            return count, _m(count)
        around = count - self.inside if count == self.model.parameters else 0.0
        text = f"{_m(count - around)} / {self.share}"
        held = around + (count - around) / self.share
        return held, f"({_m(around)} + {text})" if around else text


def trained_parameters(config: RunConfig, student: Architecture) -> int:
    lora = config.student.lora
    return student.parameters if lora is None else student.adapter(lora.rank, lora.targets)


def _student(config: RunConfig, model: Architecture, load: TokenLoad) -> list[MemoryPart]:
    """Weights: parameters × 4 B, or 2 B (with an adapter: of its dtype, or quantized); adapter,
    gradient and moments: trained × 4 B, 4 B, and 8 B (adamw) or 2 B and a bit (adamw_8bit); of
    bfloat16 weights half of it."""
    settings = config.student
    adapter, trained = settings.lora is not None, trained_parameters(config, model)
    value = 4.0 if adapter else BYTES[settings.weights]  # of a number of what is trained
    held = BYTES[settings.dtype] if adapter else value
    cut = Cut.of(config, model)
    here, text = cut.numbers(model.parameters)
    weights, formula = here * held, f"{text} × {held:g} B"
    if settings.quantize != "none" or model.packed != "none":
        weights, formula = _held(model, settings.dtype, settings.quantize)
    parts = [MemoryPart("student's weights", weights, formula)]
    trained_here, of_trained = cut.numbers(trained)
    if adapter:
        parts.append(MemoryPart("adapter", trained_here * 4.0, f"{of_trained} × 4 B"))
    moments = MOMENTS[config.optimizer.name] * value / 4
    parts += [
        MemoryPart(
            "optimizer's moments", trained_here * moments, f"{of_trained} × {moments:.3g} B"
        ),
        MemoryPart(
            "gradients", trained_here * value, f"{of_trained} × {value:g} B", "update", certain=True
        ),
    ]
    return [
        *parts,
        *_sampling_copy(config, model),
        _activations(config, model, load),
        _chunk(model, load),
    ]


def _sampling(config: RunConfig, model: Architecture, load: TokenLoad) -> list[MemoryPart]:
    """The cache of the student that samples, or a vLLM server on the same device."""
    sampling, dtype = config.sampling, config.student.dtype
    if sampling.engine == "local":
        return [_cache("keys and values of sampling", dtype, model, load, "sampling")]
    if sampling.url is not None:
        return []
    adapted = trained_parameters(config, model) if config.student.lora else 0
    server = ServerLoad(sampling.batch_size, load.row, BYTES[dtype], adapted)
    parts = share_of(model.parameters, model, server).parts(server)
    return [MemoryPart(f"vLLM: {name}", size, formula) for name, size, formula in parts]


def _sampling_copy(config: RunConfig, model: Architecture) -> list[MemoryPart]:
    """What is sampled from where it is not what is trained: float32 weights in bfloat16, where it
    computes the loss, too, or those beneath an adapter, merged; parameters × 2 B (float32: 4 B).
    Where layers are cut, all of them."""
    settings = config.student
    cut = Cut.of(config, model)
    if settings.quantize != "none" or model.packed != "none":
        return []
    if cut.share > 1:
        same = settings.lora is not None or settings.dtype == settings.weights
        copied = cut.inside if same else float(model.parameters)
    elif settings.lora is not None:
        copied = model.beneath_adapter(settings.lora.targets)
    elif settings.dtype != settings.weights:
        copied = model.parameters
    else:
        return []
    held = BYTES[settings.dtype]
    formula = f"{_m(copied)} × {held:g} B"
    # Where it does not fit, the run goes without.
    return [MemoryPart("copy that is sampled from", copied * held, formula, certain=False)]


def _put_together(config: RunConfig, model: Architecture) -> list[MemoryPart]:
    """Where layers are cut: one at a time is whole, twice while it arrives, and so are its
    gradients. The host holds the model while it is read; and the first process, for a checkpoint,
    what is trained with its moments."""
    cut = Cut.of(config, model)
    if cut.share == 1:
        return []
    value, trained = BYTES[config.student.dtype], trained_parameters(config, model)
    one = trained / model.layers
    kept = trained * (4.0 + MOMENTS["adamw"]) / cut.share
    return [
        MemoryPart(
            "layer put together", 2 * cut.layer * value, f"2 × {_m(cut.layer)} × {value:g} B"
        ),
        MemoryPart("gradients of a layer", 2 * one * 4.0, f"2 × {_m(one)} × 4 B", "update"),
        MemoryPart(
            "student before it is cut",
            model.parameters * 4.0,
            f"{_m(model.parameters)} × 4 B",
            where="host",
        ),
        MemoryPart(
            "checkpoint put together",
            kept,
            f"{_m(trained)} × 12 B, in one of {cut.share} processes",
            where="host",
        ),
    ]


def _activations(config: RunConfig, model: Architecture, load: TokenLoad) -> MemoryPart:
    """tokens × layers × (a · feed-forward + b · heads + c · hidden), a, b, c of KEPT; with
    gradient checkpointing tokens × (layers × hidden × 4 B, 2 B in bfloat16, and one layer)."""
    a, b, c = KEPT[config.student.dtype, config.student.lora is not None]
    width = (model.heads + model.kv_heads) * model.head_dim
    layer = a * model.intermediate + b * width + c * model.hidden
    if not config.student.gradient_checkpointing:
        formula = f"{load.micro_batch} tokens × {model.layers} layers × {layer / 1e3:.1f} kB"
        return MemoryPart("activations", load.micro_batch * model.layers * layer, formula, "update")
    kept = model.layers * model.hidden * BYTES[config.student.dtype]
    formula = (
        f"{load.micro_batch} tokens × ({kept / 1e3:.1f} kB between layers + {layer / 1e3:.1f} kB)"
    )
    return MemoryPart(
        "activations, recomputed", load.micro_batch * (kept + layer), formula, "update"
    )


def _chunk(model: Architecture, load: TokenLoad) -> MemoryPart:
    """min(CHUNK_VALUES, tokens × vocabulary) × 4 B × CHUNK_COPIES."""
    values = min(CHUNK_VALUES, load.micro_batch * model.vocab)
    formula = f"{_m(values)} values × 4 B × {CHUNK_COPIES}"
    return MemoryPart(
        "piece of the vocabulary's loss", values * 4.0 * CHUNK_COPIES, formula, "update"
    )


def _cache(name: str, dtype: str, model: Architecture, load: TokenLoad, phase: Phase) -> MemoryPart:
    """rows × longest × layers × 2 × key heads × head size × bytes, and logits of each row."""
    value = BYTES[dtype]
    token = model.cached * value
    logits = load.decoded * model.vocab * 4.0 * 3
    formula = f"{load.decoded} rows × {load.row} tokens × {token / 1e3:.1f} kB, and logits"
    return MemoryPart(name, load.decoded * load.row * token + logits, formula, phase)


def _held(model: Architecture, dtype: str, quantize: str) -> tuple[float, str]:
    """Bytes of frozen weights: of the dtype; where the layers are quantized, theirs × 1 or ½ B."""
    value = BYTES[dtype]
    packed = model.packed if quantize == "none" else quantize
    inner = value if packed == "none" else BYTES[packed] + QUANTIZED_EXTRA[packed]
    others = model.parameters - model.in_linears
    formula = f"{_m(model.in_linears)} in layers × {inner:.3g} B + {_m(others)} × {value:g} B"
    return model.in_linears * inner + others * value, formula


def _teacher(
    name: str, teacher: RouteConfig, cut: Cut, load: TokenLoad, *, writes: bool
) -> list[MemoryPart]:
    """Weights: parameters × bytes of the dtype; quantized: those of the layers × 1 or ½ B; of
    layers that are cut, this process's part, and one that is whole.

    An offloaded one keeps its head on the device, the rest on the host while it is not needed.
    One in a vLLM server has its weights there, on the same device, and nothing in the job.
    One that `writes` completions holds a cache as the student does that samples; one that is only
    evaluated takes as many rows at a time as are free.
    """
    value, model = BYTES[teacher.dtype], cut.model
    if teacher.engine == "vllm":
        formula = f"{_m(model.parameters)} × {value:g} B, in its server"
        return [MemoryPart(f"{name}: weights, in vLLM", model.parameters * value, formula)]
    weights, formula = _held(model, teacher.dtype, teacher.quantize)
    if cut.share > 1:
        here, text = cut.numbers(model.parameters)
        weights, formula = here * value, f"{text} × {value:g} B"
    reading = load.micro_batch * value * (6 * model.hidden + 3 * model.intermediate)
    work = MemoryPart(
        f"{name}: reading",
        reading,
        f"{load.micro_batch} tokens × {reading / load.micro_batch / 1e3:.1f} kB",
        "reading",
    )
    phases: list[Phase] = ["reading"]
    cache = []
    if writes:
        phases.append("writing")
        cache = [_cache(f"{name}: keys and values", teacher.dtype, model, load, "writing")]
    if not teacher.offload:
        whole = 2 * cut.layer * value if cut.share > 1 else 0.0
        layer = MemoryPart(
            f"{name}: layer put together", whole, f"2 × {_m(cut.layer)} × {value:g} B", phases[-1]
        )
        parts = [MemoryPart(f"{name}: weights", weights, formula), work, *cache]
        return [*parts, layer] if whole else parts
    head = model.embedding * value
    states = load.step * model.hidden * value
    return [
        MemoryPart(f"{name}: head", head, f"{_m(model.embedding)} × {value:g} B"),
        *(MemoryPart(f"{name}: weights, while {p}", weights - head, formula, p) for p in phases),
        *(work, *cache),
        MemoryPart(f"{name}: weights put aside", weights - head, formula, where="host"),
        MemoryPart(
            f"{name}: hidden states",
            states,
            f"{load.step} tokens × {model.hidden} × {value:g} B",
            where="host",
        ),
    ]


def _of_student(config: RunConfig, name: str, kind: str, model: Architecture) -> list[MemoryPart]:
    """The start: nothing with an adapter, which is switched off, else a copy in the student's
    dtype. The moving average: 4 B a trained parameter."""
    if kind == "self" and config.student.lora is None:
        value = BYTES[config.student.dtype]
        here, text = Cut.of(config, model).numbers(model.parameters)
        return [MemoryPart(f"{name}: the student's start", here * value, f"{text} × {value:g} B")]
    if kind == "ema":
        trained = trained_parameters(config, model)
        return [MemoryPart(f"{name}: moving average", trained * 4.0, f"{_m(trained)} × 4 B")]
    return []


def _m(count: float) -> str:
    return f"{count / 1e6:.1f} M"
