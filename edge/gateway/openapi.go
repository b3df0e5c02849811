package gateway

import (
	_ "embed"
	"io"
	"net/http"
)

//go:embed openapi.yaml
var openAPI string

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml; charset=utf-8")
	_, _ = io.WriteString(w, openAPI)
}
