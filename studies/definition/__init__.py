"""What a study is: its definition, from a YAML file to checked fields."""
