from xml.etree import ElementTree

from tests.faults.picture import Panel, draw


def test_a_picture_has_a_line_for_each_series_and_fault() -> None:
    panels = [Panel("a < b", {"x": [(0.0, 0.0), (10.0, 2.0)], "y": []}), Panel("c", {})]
    drawn = ElementTree.fromstring(draw(panels, [(5.0, 0.0)], 10.0))
    tags = [part.tag.rpartition("}")[2] for part in drawn]
    assert tags.count("polyline") == 2
    assert tags.count("path") == 3
    points = next(part for part in drawn if part.tag.endswith("polyline")).attrib["points"]
    assert points == "60.0,180.0 960.0,30.0"
