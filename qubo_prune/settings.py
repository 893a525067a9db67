"""What all groups of settings have in common."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A group of settings: unknown names are refused, and assignments are validated."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
