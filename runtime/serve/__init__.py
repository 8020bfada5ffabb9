"""A page that shows the classifier at work, and an HTTP endpoint that asks it: for one device. Triton is for racks."""
