"""What a report holds of a rollout besides its tokens: the alternatives of all of them, packed."""

import numpy as np
from sqlalchemy import Engine

from storage import packing
from storage.engine import read
from storage.lookups import fingerprint, rollout_row
from storage.read.rollouts import record_row
from storage.read.tokens import TokenView
from storage.text import token_text
from storage.vocabulary import read_texts


def read_alternatives(engine: Engine, rollout_id: str) -> TokenView | None:
    """Both models' top-k at every token as flat columns, a token's k in a row; None without any.

    `columns` has those of packing.TOPK_COLUMNS that are stored; `texts` are as `topk` shows them:
    {"t": text} and {"s": true} for special tokens. Raises DamagedRecord, "not found".
    """
    names = ("completion_ids", *packing.TOPK_COLUMNS)
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        arrays = packing.unpack(rollout_id, record_row(connection, rollout_id, names), names)
        completion_ids = arrays.pop("completion_ids")
        if not arrays:
            return None
        lists = [completion_ids, *(a for name, a in arrays.items() if name.endswith("_ids"))]
        ids = [int(i) for i in np.unique(np.concatenate([a.ravel().astype("<u4") for a in lists]))]
        stored = read_texts(connection, fingerprint(row), ids)
    texts = {i: (token_text(stored[i][0]), stored[i][1]) for i in ids if i in stored}
    return TokenView(
        n=len(completion_ids),
        prompt_ids=np.zeros(0, np.uint8),
        columns={name: array.ravel() for name, array in arrays.items()},
        texts={
            i: {"t": text, "s": True} if special else {"t": text}
            for i, (text, special) in texts.items()
        },
        own_texts=None,
    )
