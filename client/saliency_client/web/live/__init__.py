"""The live page: photos explained in a browser, on this machine, by a served model.

| module       | what it does                                                                     |
|--------------|----------------------------------------------------------------------------------|
| `admission`  | who may ask: Host, Origin, and what other sites' pages cannot send               |
| `keeping`    | photos and maps in memory, bounded, by names that nobody can guess               |
| `turns`      | how many requests run, and how many wait                                         |
| `forms`      | a method's parameters as fields of a form, from the server's metadata            |
| `model`      | the model's versions, what each offers, and whether its server answers           |
| `photos`     | bytes to a photo                                                                 |
| `explaining` | one map, or one that refines as samples come in                                  |
| `again`      | the command and the Python lines that make a map again; its files                |
| `app`        | the addresses of the page                                                        |
| `serving`    | the socket and the web server                                                    |

`app` and `serving` alone import Starlette and uvicorn, and the command `page` alone imports them.
"""
