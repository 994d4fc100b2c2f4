"""Explanation methods: one file each, which declares all that an export needs to know of it."""
