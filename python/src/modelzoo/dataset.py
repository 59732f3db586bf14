"""States of a zoo as a PyTorch dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

Weights: TypeAlias = torch.Tensor | Mapping[str, torch.Tensor]


class ZooDataset(Dataset[tuple[Any, torch.Tensor]]):
    """Items are (weights, properties) of one state; make it with `Zoo.dataset`."""

    def __init__(
        self,
        weights: Weights,
        rows: pd.DataFrame,
        index: pd.DataFrame,
        properties: Sequence[str],
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.weights = weights
        """The weights of all states: a tensor (N, parameters), or a dict of tensors (N, ...)."""
        self.rows = rows
        """The rows of the zoo's index, one per item."""
        self.categories: dict[str, list[str]] = {}
        """The categories of each categorical property, by code and the same in every split; -1 is null."""
        columns = [self._column(rows, index, name) for name in properties]
        stacked = np.stack(columns, axis=1) if columns else np.empty((len(rows), 0), np.float32)
        self.properties = torch.from_numpy(stacked)
        """The properties of all states: float32 (N, properties)."""
        self.transform = transform
        """Applied to an item's weights, if given."""

    def _column(self, rows: pd.DataFrame, index: pd.DataFrame, name: str) -> Any:
        if name == "ggap":
            return (rows["train_acc"] - rows["test_acc"]).to_numpy(np.float32)
        if pd.api.types.is_numeric_dtype(rows[name]):
            return rows[name].to_numpy(np.float32, na_value=np.nan)
        every = index[name] if name in index else rows[name]
        self.categories[name] = sorted({str(word) for word in every.dropna()} | {str(w) for w in rows[name].dropna()})
        words = rows[name].astype(object).map(str, na_action="ignore")
        return pd.Categorical(words, self.categories[name]).codes.astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Any, torch.Tensor]:
        weights: Any
        if isinstance(self.weights, Mapping):
            weights = {name: tensor[item] for name, tensor in self.weights.items()}
        else:
            weights = self.weights[item]
        return (self.transform(weights) if self.transform else weights), self.properties[item]
