"""The stages inside an allocation, one file each, in the order of the story."""
