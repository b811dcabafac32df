STYLE = "forge"
