"""How attention shares out the lanes."""

from amaranth.lib import data

__all__ = ["LaneUseLayout"]


class LaneUseLayout(data.StructLayout):
    """The query heads of a KV head find room in half of the lanes (`split`), in a quarter
    (`quartered`); fixed by GEOMETRY."""

    def __init__(self):
        super().__init__({"split": 1, "quartered": 1})
