"""A small experiment for tests: two arms of two seeds, one taught by the other."""

from typing import Any

from opd.experiments.definition import Experiment, parse_experiment


def data(**changes: Any) -> dict[str, Any]:
    rates = {"optimizer.learning_rate": [0.001, 0.002]}
    return {
        "name": "small",
        "title": "A small one",
        "question": "Which is faster?",
        "seeds": 2,
        "common": {
            "device": "cpu",
            "steps": 4,
            "checkpoints": {"every": 2},
            "evaluation": {"suites": {"far": "bundled"}},
        },
        "arms": {
            "rl": {
                "label": "RL",
                "config": {"objective": "grpo", "teacher": {"kind": "none"}},
                "sweep": rates,
                "best": {"optimizer.learning_rate": 0.002},
            },
            "opd": {
                "label": "OPD",
                "config": {"teacher": "arm:rl", "steps": 3},
                "sweep": rates,
                "best": {"optimizer.learning_rate": 0.001},
            },
        },
        "tuning": {"config": {"prompts": {"problem_seed": 1}}},
        "quick": {"seeds": 1, "config": {"evaluation": {"prompts": 9}}},
        "target": {"arm": "rl", "last": 1, "margin": 0.05},
        "pairs": [{"over": "rl", "under": "opd"}],
        **changes,
    }


def definition(**changes: Any) -> Experiment:
    return parse_experiment(data(**changes))
