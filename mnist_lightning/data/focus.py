"""Which images an epoch visits, by the loss that each had when it was last seen."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Focus:
    """Lets an epoch visit a share of the images: half of these the hardest, the others at random.

    The hardest are those with the highest loss when last seen; those never seen come before them.
    One that augmentation made no digit, or less of one, was not seen.
    After two epochs nearly all images are read surely, and their steps teach next to nothing.

    An epoch goes by the losses up to its start, so that a run that resumes within it visits the
    same images, and all processes choose the same.

    Args:
        num_images: Number D of images that there are.
        share: Share of the images to be visited that an epoch does visit, in 0 to 1, 0 excluded.
        device: Where the losses are.

    Attributes:
        losses: float32 `(D,)`, the loss of each image up to the epoch's start, or infinity.
        seen: float32 `(D,)`, the loss of those that this process has seen since then, or 0.
        add_up: Returns the sum of a tensor over all processes.
    """

    def __init__(
        self,
        num_images: int,
        share: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.share = share
        self.losses = torch.full((num_images,), torch.inf, device=device)
        self.seen = torch.zeros(num_images, device=device)
        self.add_up: Callable[[Tensor], Tensor] = lambda seen: seen

    def size(self, num: int) -> int:
        """Return how many of `num` images an epoch visits."""
        return min(num, max(2, round(num * self.share)))  # batch norm needs two

    def choose(self, order: np.ndarray, starts: bool) -> np.ndarray:
        """Choose what an epoch visits.

        Args:
            order: int64 `(N,)`, the images in random order.
            starts: Whether the epoch starts, and does not go on after a resumption.

        Returns:
            int64 `(size(N),)`, those of them that are visited, in the same order.
        """
        if starts:
            seen = self.add_up(self.seen.clone())
            self.losses = torch.where(seen > 0, seen, self.losses)
            self.seen.zero_()
        hardest = np.argsort(-self.losses.cpu().numpy()[order], kind="stable")
        size = self.size(len(order))
        hard, rest = np.split(hardest, [size // 2])
        return order[np.sort(np.append(hard, np.sort(rest)[: size - len(hard)]))]

    def note(self, visits: Tensor, losses: Tensor, counts: Tensor | None = None) -> None:
        """Remember the losses of a step.

        Args:
            visits: int64 `(B,)`, its images.
            losses: float32 `(B,)`, 0 or more.
            counts: Bool `(B,)`, whether each is to be remembered; None for all.
        """
        losses = losses.clamp(min=torch.finfo(torch.float32).tiny)  # 0 is for unseen
        if counts is not None:
            losses = torch.where(counts, losses, self.seen[visits])
        self.seen[visits] = losses

    def state_dict(self) -> dict[str, Any]:
        """Return the losses, with those of all processes; to be called on each."""
        return {"losses": self.losses, "seen": self.add_up(self.seen.clone())}

    def load_state_dict(self, state_dict: dict[str, Any], rank: int) -> None:
        """Go on from these losses; what all processes have seen is counted once."""
        self.losses.copy_(state_dict["losses"])
        self.seen.copy_(state_dict["seen"] if rank == 0 else torch.zeros_like(self.seen))
