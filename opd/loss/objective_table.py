"""Every objective by name, out of the files of `opd.loss.objectives`.

Settings, form, loss lab and documents are made from this table; a new objective is a new file there
(or an entry of a family's file) and appears in all of them. Importing it loads no torch.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, get_args

from opd.loss import objectives
from opd.loss.objective import Need, Objective, Parameter


def _collected() -> dict[str, Objective]:
    """Those that ask most of the teacher first, those of the loss lab only last."""
    entries: list[Objective] = []
    for module in sorted(iter_modules(objectives.__path__), key=lambda m: m.name):
        entries += import_module(f"{objectives.__name__}.{module.name}").OBJECTIVES
    order = get_args(Need)
    entries.sort(key=lambda entry: (entry.loss is None, order.index(entry.needs)))
    return {entry.name: entry for entry in entries}


OBJECTIVES = _collected()
TRAINABLE = tuple(name for name, entry in OBJECTIVES.items() if entry.loss is not None)
PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter for entry in OBJECTIVES.values() for parameter in entry.parameters
}
LAB_PARAMETERS = {p.lab_name: p for p in PARAMETERS.values() if p.lab_name}


def owners(parameter: Parameter) -> tuple[str, ...]:
    """The objectives that have this parameter."""
    return tuple(name for name, entry in OBJECTIVES.items() if parameter in entry.parameters)


def refusal(parameter: Parameter, name: str) -> str:
    """Why the parameter cannot be set beside the objective; "" where it can."""
    if name in owners(parameter):
        return ""
    return parameter.elsewhere.format(name=name, owners=" and ".join(owners(parameter)))


def described() -> dict[str, Any]:
    """What pages show of objectives and of the parameters that the loss lab varies."""
    return {
        "objectives": [
            {
                "name": entry.name,
                "label": entry.label,
                "formula": entry.formula,
                "help": entry.help,
                "needs": entry.needs,
                "trainable": entry.loss is not None,
                "signed": entry.signed,
            }
            for entry in OBJECTIVES.values()
        ],
        "parameters": [
            {
                "name": name,
                "label": parameter.label,
                "unit": parameter.unit,
                "objectives": owners(parameter),
                **lab_range(parameter),
            }
            for name, parameter in LAB_PARAMETERS.items()
        ],
    }


def lab_limits(parameter: Parameter) -> dict[str, Any]:
    """Pydantic's limits in the loss lab, where 0 stands for empty."""
    if parameter.default is not None:
        return dict(parameter.limits)
    return {"ge": 0} | {k: v for k, v in parameter.limits.items() if k not in ("gt", "ge")}


def lab_range(parameter: Parameter) -> dict[str, Any]:
    """min, max and step of an input; a limit that is itself excluded is 0.01 away."""
    limits = lab_limits(parameter)
    least = limits["ge"] if "ge" in limits else limits["gt"] + 0.01
    most = limits["le"] if "le" in limits else limits["lt"] - 0.01
    return {"min": least, "max": most, "step": parameter.step or "any"}
