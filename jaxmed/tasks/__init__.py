"""The clinical problems: name -> make(**options) -> Task."""

from jaxmed.tasks import chest_xray, white_blood_cell

TASKS = {
    'chest_xray': chest_xray.make,
    'white_blood_cell': white_blood_cell.make,
}
