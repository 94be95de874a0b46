"""The clinical problems: name -> make(**options) -> Task."""

from jaxmed.tasks import white_blood_cell

TASKS = {
    'white_blood_cell': white_blood_cell.make,
}
