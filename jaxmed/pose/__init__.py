"""A person's movement: from pictures to landmarks, cleaned, and live."""
