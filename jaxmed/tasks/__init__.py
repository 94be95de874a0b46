"""The clinical problems: name -> make(**options) -> Task."""

from jaxmed.tasks import (
    chest_xray,
    spinal_cord,
    spine_health,
    vertebral_fracture,
    white_blood_cell,
)

TASKS = {
    'chest_xray': chest_xray.make,
    'spinal_cord': spinal_cord.make,
    'spine_health': spine_health.make,
    'vertebral_fracture': vertebral_fracture.make,
    'white_blood_cell': white_blood_cell.make,
}
