"""A small server in the place of vLLM's, over one model, with faults on demand.

Each token is drawn from a plain forward pass without a cache, with a generator of its own for each
completion, seeded as vLLM seeds the completions of one request.
"""

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

Payload = dict[str, Any]
ADAPTER_PATHS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
WEIGHT_PATHS = (
    *("/pause", "/resume", "/sleep", "/collective_rpc", "/init_weight_transfer_engine"),
    *("/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache"),
)


@dataclass
class VllmFaults:
    """What goes wrong."""

    ignores_updates: bool = False
    wrong_version: bool = False
    refuses: str = ""  # a path that is answered with 500, and these words
    words: str = "EngineCore encountered an issue"
    fails_at: str = ""  # a path that is not answered, the n-th time: "/v1/completions:3"
    edits: Payload = field(default_factory=dict)  # of each choice of a completion
    highest_rank: int = 512  # of an adapter that is loaded
    at_temperature_one: bool = False  # as --logprobs-mode raw_logprobs gives them


@dataclass
class ServerRefusal(Exception):
    status: int
    message: str


class FakeVllm:
    """`with FakeVllm(folder, socket) as server:` answers on the socket, or, without one, at
    `server.url`. `transfer` is the kind of its weight transfer, None: it takes adapters only."""

    def __init__(
        self,
        folder: Path,
        socket: Path | None = None,
        *,
        transfer: str | None = "files",
        key: str | None = None,
    ) -> None:
        self.transfer, self.key, self.tells = transfer, key, True
        self.context, self.logprobs_mode, self.dtype = 4096, "processed_logprobs", "float32"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.faults, self.requests = VllmFaults(), list[tuple[str, Payload]]()
        self.version, self.updates, self.lock = "default", 0, threading.Lock()
        self.met = 0  # requests to the path of faults.fails_at
        self.adapted: dict[str, Any] = {}  # by the adapter's name
        self.http: _SocketServer | _PortServer
        if socket is None:
            self.http = _PortServer(("127.0.0.1", 0), _Requests)
            self.url = f"http://127.0.0.1:{self.http.server_port}"
        else:
            self.http = _SocketServer(str(socket), _Requests)
            self.url = f"unix:{socket}"
        self.http.ours = self
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))

    def __enter__(self) -> "FakeVllm":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def read(self, path: str, *, key: str | None) -> Payload:
        """What GET answers. Raises ServerRefusal, as for a path that is there for POST only."""
        if path == "/health":
            return {}
        self._check_key(path, key)
        if path == "/weight_info":
            return self.answer(path, {})
        if path == "/v1/models":
            card = {"id": "student", "max_model_len": self.context}
            adapters = [{"id": name, "parent": "student"} for name in self.adapted]
            return {"data": [card, *adapters]}
        if path == "/server_info" and self.tells:
            return {
                "vllm_config": {
                    "model_config": {
                        "logprobs_mode": self.logprobs_mode,
                        "dtype": f"torch.{self.dtype}",
                    },
                    "lora_config": None
                    if self.transfer
                    else {"max_lora_rank": self.faults.highest_rank},
                    "weight_transfer_config": {"backend": self.transfer} if self.transfer else None,
                }
            }
        there = path in ADAPTER_PATHS or (self.tells and path in WEIGHT_PATHS)
        raise ServerRefusal(405 if there else 404, "Not Found")

    def write(self, path: str, body: Payload, *, key: str | None) -> Payload:
        """What POST answers. Raises ServerRefusal."""
        self._check_key(path, key)
        return self.answer(path, body)

    def meets_fault(self, method: str, path: str) -> bool:
        """Whether this request is the one that gets no answer."""
        faults = self.faults
        at, _, number = faults.fails_at.partition(":")
        if path != at or method != "POST":
            return False
        self.met += 1
        return self.met == int(number or 1)

    def _check_key(self, path: str, key: str | None) -> None:
        if self.key is not None and path.startswith("/v1") and key != f"Bearer {self.key}":
            raise ServerRefusal(401, "Unauthorized")

    def answer(self, path: str, body: Payload) -> Payload:
        """Raises ServerRefusal."""
        with self.lock, torch.no_grad():
            self.requests.append((path, body))
            if path == "/v1/completions":
                model = self.adapted.get(body["model"], self.model)
                if model is self.model and body["model"] != "student":
                    raise ServerRefusal(404, f"The model `{body['model']}` does not exist.")
                return {
                    "choices": self._followed(model, body)
                    if "return_tokens_as_token_ids" in body
                    else self._written(model, body)
                }
            if path == "/fake/start":  # as a process that starts with the model of this folder
                self.model.load_state_dict(
                    load_file(Path(body["folder"]) / "model.safetensors"), False
                )
                self.model.tie_weights()
                self.adapted.clear()
            if path == "/tokenize":
                ids = self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
                return {"tokens": ids}
            if path == "/update_weight_version":
                self.version = body["new_version"]
            if path == "/v1/load_lora_adapter":
                self._load_adapter(body["lora_name"], Path(body["lora_path"]))
            if path == "/v1/unload_lora_adapter":
                del self.adapted[body["lora_name"]]
            if path == "/update_weights":
                self._update(Path(body["update_info"]["folder"]))
            if path == "/finish_weight_update" and not self.faults.wrong_version:
                self.version = body["weight_version"]
            return {"weight_version": self.version}

    def _update(self, folder: Path) -> None:
        files = list(folder.glob("*.safetensors"))
        assert files
        self.updates += 1
        for file in files:
            if not self.faults.ignores_updates:
                missing = self.model.load_state_dict(load_file(file), strict=False)
                assert not missing.unexpected_keys
                self.model.tie_weights()

    def _load_adapter(self, name: str, folder: Path) -> None:
        """W + alpha / rank · B A for each pair of matrices, upon a copy of the model."""
        if name in self.adapted:
            raise ServerRefusal(400, f"The lora adapter '{name}' has already been loaded.")
        settings = json.loads((folder / "adapter_config.json").read_text())
        if settings["r"] > self.faults.highest_rank:
            raise ServerRefusal(500, f"LoRA rank {settings['r']} is greater than max_lora_rank")
        matrices = load_file(folder / "adapter_model.safetensors")
        model = copy.deepcopy(self.model)
        self.updates += 1
        for key, a in matrices.items():
            if ".lora_A." in key and not self.faults.ignores_updates:
                path = key.removeprefix("base_model.model.").partition(".lora_A.")[0]
                delta = matrices[key.replace(".lora_A.", ".lora_B.")] @ a
                model.get_parameter(f"{path}.weight").add_(
                    delta * settings["lora_alpha"] / settings["r"]
                )
        self.adapted[name] = model

    def _written(self, model: Any, body: Payload) -> list[Payload]:
        (prompt,) = body["prompt"]
        return [self._choice(model, prompt, body, i) | self.faults.edits for i in range(body["n"])]

    def _choice(self, model: Any, prompt: list[int], body: Payload, index: int) -> Payload:
        generator = torch.Generator().manual_seed(body["seed"] + index)
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < body["max_tokens"] and not {*ids} & {*body["stop_token_ids"]}:
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            logp = (logits / (body["temperature"] or 1)).log_softmax(-1)
            noise = torch.empty_like(logp).exponential_(generator=generator)
            token = int((logp.exp() / noise).argmax() if body["temperature"] else logp.argmax())
            ids.append(token)
            logprobs.append(float(logp[token]))
        return {"index": index, "token_ids": ids, "logprobs": {"token_logprobs": logprobs}}

    def _followed(self, model: Any, body: Payload) -> list[Payload]:
        choices = []
        for index, text in enumerate(body["prompt"]):
            logits = model(torch.tensor([text])).logits[0, -1].float()
            temperature = 1.0 if self.faults.at_temperature_one else body["temperature"]
            values, ids = (logits / temperature).log_softmax(-1).topk(body["logprobs"])
            pairs = zip(ids.tolist(), values.tolist(), strict=True)
            top = {f"token_id:{i}": v for i, v in pairs}
            choices.append({"index": index, "logprobs": {"top_logprobs": [top]}})
        return choices


class _SocketServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    ours: FakeVllm

    def handle_error(self, *_: object) -> None:
        """Of a client that was asked to stop, and waits no longer."""


class _PortServer(ThreadingHTTPServer):
    request_queue_size = 128
    ours: FakeVllm

    def handle_error(self, *_: object) -> None:
        """Likewise."""


class _Requests(BaseHTTPRequestHandler):
    server: _SocketServer | _PortServer

    def do_GET(self) -> None:
        self._reply(self.server.ours.read)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        self._reply(partial(self.server.ours.write, body=body))

    def _reply(self, answer: Callable[..., Payload]) -> None:
        path, status = self.path.partition("?")[0], 200
        if self.server.ours.meets_fault(self.command, path):
            return
        try:
            faults = self.server.ours.faults
            if path == faults.refuses:
                raise ServerRefusal(500, faults.words)
            payload = answer(path, key=self.headers.get("authorization"))
        except ServerRefusal as refusal:
            status, payload = refusal.status, {"error": {"message": refusal.message}}
        content = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
