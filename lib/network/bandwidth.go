// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Annotations of a pod that bound its traffic, as Kubernetes has them.
const (
	IngressAnnotation = "kubernetes.io/ingress-bandwidth"
	EgressAnnotation  = "kubernetes.io/egress-bandwidth"
)

// Bounds of a rate in bits per second, which are Kubernetes' own.
const (
	minRate = 1e3
	maxRate = 1e15
)

// ParseBandwidth reads the annotations of a pod that bound its traffic. What is no quantity of Kubernetes', or is below 1k
// or above 1P, is errdefs.ErrInvalidArgument.
func ParseBandwidth(annotations map[string]string) (b Bandwidth, err error) {
	for _, bound := range []struct {
		name string
		rate *uint64
	}{{IngressAnnotation, &b.IngressRate}, {EgressAnnotation, &b.EgressRate}} {
		text, ok := annotations[bound.name]
		if !ok {
			continue
		}
		if *bound.rate, err = ParseRate(text); err != nil {
			return Bandwidth{}, fmt.Errorf("annotation %s: %w", bound.name, err)
		}
	}
	return b, nil
}

// suffixes are those of Kubernetes' quantities, apart from the exponents.
var suffixes = map[string]float64{
	"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}

// ParseRate reads a rate in bits per second, written as a quantity of Kubernetes': 10M, 1.5G, 1e6.
func ParseRate(text string) (uint64, error) {
	end := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(text)
	}
	number, suffix := text[:end], text[end:]
	factor, known := suffixes[suffix]
	if !known && (suffix[0] == 'e' || suffix[0] == 'E') {
		exp, err := strconv.ParseInt(suffix[1:], 10, 8)
		factor, known = math.Pow10(int(exp)), err == nil
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known {
		return 0, fmt.Errorf("rate %.50q: want a number of bits per second such as 10M: %w", text, errdefs.ErrInvalidArgument)
	}
	n = math.Ceil(n * factor)
	if !(n >= minRate && n <= maxRate) {
		return 0, fmt.Errorf("rate %.50q: want 1k to 1P bits per second: %w", text, errdefs.ErrInvalidArgument)
	}
	return uint64(n), nil
}
