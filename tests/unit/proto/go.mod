module crisp/tests/proto

go 1.24.0

require k8s.io/cri-api v0.37.2
