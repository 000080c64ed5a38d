"""Which ids may stand where while a picture is written: an immutable rule, no state, no lists.

Offsets count the tokens after the image header, from 0. A picture is h rows of w visual ids, each
closed by end-of-line, then end-of-frame, end-of-image and end-of-sequence.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenGrid:
    """The grammar of one picture (spec section 4.5, in closed form and right for every width)."""

    height: int
    width: int
    visual_start: int
    visual_stop: int
    end_of_line: int
    end_of_frame: int
    image_end: int
    eos: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid needs rows and columns, got {self.height}x{self.width}")

    @property
    def drawn(self) -> int:
        """Tokens that are drawn: the visual ones."""
        return self.height * self.width

    @property
    def length(self) -> int:
        """Tokens of the whole picture, structure included."""
        return self.height * (self.width + 1) + 3

    @property
    def tail(self) -> tuple[int, int, int]:
        """What follows the last row."""
        return (self.end_of_frame, self.image_end, self.eos)

    def allowed(self, offset: int) -> range:
        """Ids allowed at an offset: the visual range, or a single forced id.

        Raises IndexError beyond the end of the picture.
        """
        forced = self.forced(offset)
        if forced is None:
            return range(self.visual_start, self.visual_stop)
        return range(forced, forced + 1)

    def forced(self, offset: int) -> int | None:
        """The only id allowed at an offset, or None where a visual id is drawn."""
        rows = self.height * (self.width + 1)
        if not 0 <= offset < self.length:
            raise IndexError(f"offset {offset} is outside of a picture of {self.length} tokens")
        if offset >= rows:
            return self.tail[offset - rows]
        return self.end_of_line if offset % (self.width + 1) == self.width else None

    def offset(self, index: int) -> int:
        """Offset of the index-th drawn id: one line end lies behind each full row."""
        return index + index // self.width

    def closes_row(self, index: int) -> bool:
        """Whether the index-th drawn id is the last of its row."""
        return index % self.width == self.width - 1
