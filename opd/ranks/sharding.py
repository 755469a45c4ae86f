"""Models whose layers are cut among the processes of a run (FSDP2).

A process holds its part of every layer; a layer is put together where it computes, and let go, so
that all processes pass through it in step (`opd.ranks.passes`). Embeddings, final norm and head are
whole in each process: they are met apart from the layers, by as many tokens as a process happens to
have.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from opd.errors import one_line, raise_lack_of_memory
from opd.models.forward import causal, route_of, take_route
from opd.models.routes import CANNOT, close, refused, toy_logits
from opd.ranks.layers import layers_of
from opd.ranks.passes import Computing, Passes
from opd.ranks.processes import ProcessRanks

COLLECT = "collect"  # what the processes hold parts of


class Shards:
    """The sharded models of one process; all processes of a run make the same, in one order."""

    student: Passes

    def __init__(self, ranks: ProcessRanks, device: torch.device) -> None:
        self.ranks, self.device = ranks, device
        self._mesh = DeviceMesh.from_group(_all(), device.type)
        self._models = 0
        # Of what is trained: what all have together → what is here, and back.
        self._parts: dict[Any, nn.Parameter] = {}
        self._wholes: dict[int, Any] = {}
        self._trained: tuple[Any, torch.optim.Optimizer]
        ranks.offer(COLLECT, self._put_together)

    def cut(
        self,
        model: Any,
        *,
        where: str,
        narrow: torch.dtype | None = None,
        computing: Computing = nullcontext,
    ) -> Passes:
        """Cuts the model's layers among the processes; all of its weights move to the device.

        In `narrow` the layers compute, where it is given, while their gradients add up in float32.
        Raises UserError for layers that cannot be told apart, or do not compute the same then.
        """
        layers = layers_of(model, where=where)
        with computing():
            expected = toy_logits(causal(model)).to(self.device)
        policy = MixedPrecisionPolicy(
            param_dtype=narrow,
            reduce_dtype=torch.float32 if narrow else None,
            cast_forward_inputs=False,  # which stay as wide as autocast has them
        )
        for layer in layers:
            sharded: Any = fully_shard(
                layer, mesh=self._mesh, reshard_after_forward=True, mp_policy=policy
            )
            sharded.set_gradient_divide_factor(1.0)  # sums over all rows, no means
            sharded.set_force_sum_reduction_for_comms(True)
        _move(model, self.device)
        take_route(model, replace(route_of(model), sharded=True))
        passes = Passes(self.ranks, model, self._models, computing)
        self._models += 1
        try:
            with computing():
                same = close(causal(model), toy_logits(causal(model)), expected)
        except CANNOT as error:
            raise_lack_of_memory(error)
            reason = f"its layers cannot be sharded: {one_line(error)}"
            raise refused(model, reason, where) from error
        if not same:
            raise refused(model, "its layers compute something else once they are sharded", where)
        return passes

    def cut_student(self, model: Any, *, computing: Computing, narrow: torch.dtype | None) -> None:
        """The model that is trained."""
        self.student = self.cut(model, where="student.model", narrow=narrow, computing=computing)
        for parameter in model.parameters():
            if isinstance(parameter, DTensor) and parameter.requires_grad:
                part = nn.Parameter(parameter.to_local().detach())  # in the same memory
                self._parts[parameter] = part
                self._wholes[id(part)] = parameter

    def train(self, student: Any, optimizer: torch.optim.Optimizer) -> None:
        """Once all models are cut."""
        self.student.learn()
        self._trained = (student, optimizer)

    def here(self, parameters: Sequence[Any]) -> list[nn.Parameter]:
        """What this process holds of parameters: whole ones, and its parts of the others."""
        return [self._parts.get(p, p) for p in parameters]

    def take_gradients(self) -> None:
        """The parts' gradients from those that the layers have added up."""
        for whole, part in self._parts.items():
            gradient, whole.grad = whole.grad, None
            part.grad = None if gradient is None else gradient.to_local()

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """As `optimizers.clip`, of what is `here`: the parts of all processes count."""
        held = [p for p in parameters if p.grad is not None]
        shared = _square([p for p in held if id(p) in self._wholes], self.device)
        dist.all_reduce(shared)
        norm = (shared + _square(self.whole(held), self.device)).sqrt()
        torch.nn.utils.clip_grads_with_norm_(held, limit, norm)
        return norm

    def whole(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those of what is `here` that every process has alike."""
        return [p for p in parameters if id(p) not in self._wholes]

    def least(self, number: int) -> int:
        """Of what the processes say, at once."""
        smallest = torch.tensor(number, device=self.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return int(smallest)

    def collected(self) -> "Whole":
        """What the processes hold parts of, put together for the first one, which asks for it while
        the others `attend`; empty elsewhere."""
        with self.ranks.in_step(COLLECT):
            return self._put_together()

    def parted(self, parameter: Any, moments: Mapping[str, Any]) -> dict[str, Any]:
        """Of whole moments, those of what is `here`."""
        whole = self._wholes.get(id(parameter))
        if whole is None:
            return dict(moments)
        return {name: self._part(value, whole) for name, value in moments.items()}

    def whole_shapes(self, parameters: Sequence[Any]) -> list[torch.Size]:
        """Those of the parameters that what is `here` belongs to."""
        return [self._wholes.get(id(p), p).shape for p in parameters]

    def _part(self, value: Any, whole: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != whole.shape:
            return value
        spread: Any = distribute_tensor(
            value.to(self.device), self._mesh, whole.placements, src_data_rank=None
        )
        return spread.to_local().clone()

    def _put_together(self) -> "Whole":
        student, optimizer = self._trained
        names = {n for n, p in student.named_parameters() if p.requires_grad}
        adapter = causal(student) is not student
        named = {n: t for n, t in student.state_dict().items() if not adapter or n in names}
        copies: dict[Any, Tensor] = {}  # tied weights are one tensor afterwards, too
        weights = {n: self._on_host(t, copies) for n, t in named.items()}
        parameters = _parameters(optimizer)
        moments = {}
        for number, state in optimizer.state_dict()["state"].items():
            part = parameters[number]
            whole = self._wholes.get(id(part))
            moments[number] = {
                name: self._on_host(_as(whole, value) if whole is not None else value, copies)
                for name, value in state.items()
            }
        if self.ranks.leads:
            return Whole(weights, moments)
        return Whole({}, {})

    def _on_host(self, value: Any, copies: dict[Any, Tensor]) -> Any:
        if not isinstance(value, Tensor):
            return value
        if isinstance(value, DTensor):
            whole = value.full_tensor()
            return whole.cpu() if self.ranks.leads else None
        key = (value.data_ptr(), value.shape)
        if key not in copies:
            copies[key] = value.detach().cpu()
        return copies[key]


@dataclass(frozen=True)
class Whole:
    """The weights that are saved by name, and the optimizer's state by parameter; on the host."""

    weights: dict[str, Tensor]
    moments: dict[int, dict[str, Any]]


def _all() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _as(whole: Any, value: Any) -> Any:
    """A moment of a part, as a part of the whole's moment."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return DTensor.from_local(
        value,
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def _square(parameters: Sequence[nn.Parameter], device: torch.device) -> Tensor:
    """Of the norm of all their gradients."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack([g.square().sum() for g in gradients]).sum()


def _move(model: nn.Module, device: torch.device) -> None:
    """What is not sharded; the layers' weights have moved."""
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for buffer in module.buffers(recurse=False):
            buffer.data = buffer.data.to(device)
