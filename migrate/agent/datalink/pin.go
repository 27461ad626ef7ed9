package datalink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// NewCertificate makes a key and a certificate for the data connections of one run. Nobody signs it: the other end learns
// its DER (Certificate[0]) over the control connection and takes no other. The key never leaves the process.
func NewCertificate() (tls.Certificate, error) {
	const op = "make a certificate for data connections: %w"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf(op, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf(op, err)
	}
	// Its dates mean nothing to who pins it; clocks of hosts may differ.
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "vmmigrate data"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf(op, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// errWrongPeer: the other end has another certificate than the one that was named.
var errWrongPeer = fmt.Errorf("%w: its certificate is not the one that was named", ErrRefused)

// PinTLS is a configuration for both the dialling and the listening end: TLS 1.3, we show own, and the other end has to
// show exactly the certificate peer (DER) and prove that it has the key. No CA, name or date is looked at.
func PinTLS(own tls.Certificate, peer []byte) (*tls.Config, error) {
	if len(own.Certificate) == 0 || own.PrivateKey == nil {
		return nil, errors.New("data connections: no certificate of our own")
	}
	if _, err := x509.ParseCertificate(peer); err != nil {
		return nil, fmt.Errorf("data connections: the other end's certificate: %w", err)
	}
	pinned := append([]byte(nil), peer...)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // VerifyConnection is stricter than what it replaces
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || subtle.ConstantTimeCompare(s.PeerCertificates[0].Raw, pinned) != 1 {
				return errWrongPeer
			}
			return nil
		},
	}, nil
}

// alert marks an error by which the other end says that it does not take our certificate, or does not speak TLS at all.
func alert(err error) error {
	var oe *net.OpError
	var plain tls.RecordHeaderError
	if errors.As(err, &oe) && oe.Op == "remote error" || errors.As(err, &plain) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
