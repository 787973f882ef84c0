{{- /* The server's configuration file, and what its values mean in numbers. */ -}}

{{- define "columba.toml" -}}
{{- include "columba.tomlTable" (dict "name" "" "table" (.Values.config | default dict)) | trim -}}
{{- end -}}

{{- /* A table, and those in it after its own keys, as TOML wants it. A number from YAML is a float, which would be
       written 10000.0, or 1e+06. Takes the table and its name. */ -}}
{{- define "columba.tomlTable" -}}
{{- $name := .name }}
{{- if $name }}
[{{ $name }}]
{{- end }}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "invalid" $value) (kindIs "map" $value)) }}
{{ $key }} = {{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ toJson $value }}{{ end }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- include "columba.tomlTable" (dict "name" (printf "%s.%s" $name $key | trimPrefix ".") "table" $value) }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* A size in bytes: 64MiB as the server writes it, 10Gi as Kubernetes does, or a number. */ -}}
{{- define "columba.bytes" -}}
{{- if kindIs "string" . -}}
{{- $text := nospace . -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text | trimSuffix "B" | upper -}}
{{- $powers := dict "" 1 "K" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "KI" 1024 "MI" 1048576 "GI" 1073741824 "TI" 1099511627776 -}}
{{- mulf (float64 $number) (get $powers $unit) | int64 -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{- /* A time in seconds: 25s, 5m or 1h. */ -}}
{{- define "columba.seconds" -}}
{{- $unit := regexFind "[smh]$" . -}}
{{- mul (trimSuffix $unit . | int64) (get (dict "s" 1 "m" 60 "h" 3600) $unit) -}}
{{- end -}}

{{- /* A setting, or the server's default if it is not given. Takes the context, section, key and default. */ -}}
{{- define "columba.setting" -}}
{{- $section := get (.context.Values.config | default dict) .section | default dict -}}
{{- $value := get $section .key -}}
{{- if or (not (hasKey $section .key)) (kindIs "invalid" $value) -}}
{{- .default -}}
{{- else if kindIs "float64" $value -}}
{{- int64 $value -}}
{{- else -}}
{{- $value -}}
{{- end -}}
{{- end -}}

{{- /* A size among the storage settings, in bytes. Takes the context, the key and the server's default. */ -}}
{{- define "columba.storageBytes" -}}
{{- include "columba.setting" (merge (dict "section" "storage") .) | include "columba.bytes" -}}
{{- end -}}
