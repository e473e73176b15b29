"""Programs that apply a plan as it is."""
