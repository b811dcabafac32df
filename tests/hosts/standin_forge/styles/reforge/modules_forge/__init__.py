STYLE = "reforge"
