// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"time"

	"ctrd.dev/ctrd/lib/config"
)

// certificateFor is how long a certificate that is made here is good. Each process makes its own.
const certificateFor = 365 * 24 * time.Hour

// tlsConfig serves streams with the certificate of the configuration; without one, with one that is made here for the host
// and signs itself, as containerd does. The kubelet does not verify it: it is told the URL by the runtime.
func tlsConfig(files config.KeyPair, host string) (*tls.Config, error) {
	var pair tls.Certificate
	var err error
	if files.Cert != "" {
		pair, err = tls.LoadX509KeyPair(files.Cert, files.Key)
	} else {
		pair, err = selfSigned(host)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	// What takes a connection over from HTTP knows version 1.1 alone.
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}

func selfSigned(host string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "ctrd"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateFor),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
