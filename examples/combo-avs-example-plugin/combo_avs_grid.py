"""A proposal generator that cuts each frame into a grid of cells: the least that a plug-in can be."""

import torch
from pydantic import Field

from combo_avs.base import Section
from combo_avs.model.builders import Entry
from combo_avs.model.foundation.interface import ProposalGenerator, Proposals


class GridConfig(Section):
    cells: int = Field(default=4, ge=1, description="per side")  # --set precompute.generator.cells=8


class Grid:
    name, version, weights_sha256 = "grid", "1", None

    def __init__(self, config: GridConfig) -> None:
        self.cells, self.parameters = config.cells, config.model_dump()

    def __call__(self, frames: torch.Tensor) -> list[Proposals]:
        return [self.propose(*frame.shape[:2]) for frame in frames]

    def propose(self, height: int, width: int) -> Proposals:
        rows, columns = (torch.arange(side) * self.cells // side for side in (height, width))
        cell_of_pixel = rows[:, None] * self.cells + columns
        masks = cell_of_pixel == cell_of_pixel.unique()[:, None, None]
        inside = [mask.nonzero() for mask in masks]  # rows and columns of each cell's pixels
        boxes = torch.stack([torch.cat([p.amin(0).flip(0), p.amax(0).flip(0)]) for p in inside]).int()
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        return Proposals(masks, torch.ones(len(masks)), torch.ones(len(masks)), boxes, centres, masks.sum((1, 2)))

    def to(self, device: torch.device) -> "Grid":
        return self


ENTRY: Entry[ProposalGenerator] = Entry(GridConfig, Grid)
