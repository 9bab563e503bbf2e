"""The cookbook: configuration groups and recipes as YAML. A package only so that it is installed and found with one."""
