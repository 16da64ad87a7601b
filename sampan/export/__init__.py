"""A pack, or the floats it was made of, as files for other engines."""

from sampan.export.export import ExportReport, export_pack

__all__ = ["ExportReport", "export_pack"]
