"""Folders whose weights are stored quantized, where a run cannot use them so."""

import json

import pytest

from opd.config.model_files.quantized import refuse_cutting
from opd.config.run import check_inputs, parse
from opd.errors import ConfigError, UserError


def folder(path, **settings):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3", **settings}))
    return str(path)


def test_quantized_weights_are_not_cut_among_processes(tmp_path):
    whole = folder(tmp_path / "whole")
    packed = folder(tmp_path / "packed", quantization_config={"quant_method": "awq"})
    refuse_cutting(whole, where="x")
    refuse_cutting("org/name", where="x")
    with pytest.raises(UserError, match=r"needs whole weights .*awq"):
        refuse_cutting(packed, where="x")
    config = parse({"student": whole, "teacher": packed, "sharding": "full"})
    with pytest.raises(ConfigError, match=r"teacher\.model: sharding full needs whole weights"):
        check_inputs(config)
